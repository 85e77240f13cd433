fn main() {
    // `sqlx::migrate!` reads the folder at compile time; a new file must cause a rebuild.
    println!("cargo:rerun-if-changed=migrations");
}
