//! Kafka's jars: fetched from Maven Central once, kept in the user's cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, anyhow, bail};

use super::VERSION;
use crate::Result;
use crate::process::tail;

/// The jars of Kafka on this machine.
#[derive(Debug, Clone)]
pub struct Distribution {
    pub(super) java: PathBuf,
    pub(super) libs: PathBuf,
}

impl Distribution {
    /// Finds the jars in the user's cache; `None` if they have not been fetched yet. Fails with one
    /// clear line if Java is missing.
    pub fn find() -> Result<Option<Self>> {
        let java = find_java()?;
        let libs = cache_folder()?.join(format!("kafka-{VERSION}/libs"));
        let complete = libs.join("complete").exists();
        Ok(complete.then_some(Self { java, libs }))
    }

    /// Finds the jars in the user's cache or fetches them with Maven (54 MB, once). Safe when several
    /// processes call it at the same time. Fails with one clear line if Java or Maven is missing.
    pub fn find_or_fetch() -> Result<Self> {
        if let Some(found) = Self::find()? {
            return Ok(found);
        }
        let java = find_java()?;
        let home = cache_folder()?.join(format!("kafka-{VERSION}"));
        let libs = home.join("libs");
        std::fs::create_dir_all(&home).with_context(|| format!("creating {home:?}"))?;
        let lock = std::fs::File::create(home.join("lock"))?;
        lock.lock().with_context(|| format!("locking {home:?}"))?;
        if !libs.join("complete").exists() {
            fetch(&home, &libs)?;
        }
        Ok(Self { java, libs })
    }

    /// A command that runs a main class of Kafka with a small heap.
    pub fn command(&self, main_class: &str, heap_mib: u32) -> Command {
        let mut command = Command::new(&self.java);
        command
            .arg(format!("-Xmx{heap_mib}m"))
            .arg("-cp")
            .arg(self.libs.join("*"));
        command.arg(main_class);
        command
    }

    /// One of Kafka's tools. Its JVM lives for a second: the quick compiler and the plain collector are
    /// the fast ones.
    pub(super) fn tool(&self, main_class: &str) -> Command {
        let mut command = Command::new(&self.java);
        command
            .args([
                "-Xmx256m",
                "-XX:TieredStopAtLevel=1",
                "-XX:+UseSerialGC",
                "-cp",
            ])
            .arg(self.libs.join("*"))
            .arg(main_class);
        command
    }
}

fn fetch(home: &Path, libs: &Path) -> Result<()> {
    // log4j-slf4j-impl is what Kafka's own release adds: without it the broker logs nothing.
    let pom = format!(
        r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>onceward</groupId><artifactId>kafka-jars</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{VERSION}</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.4</version></dependency>
  </dependencies>
</project>
"#
    );
    std::fs::write(home.join("pom.xml"), pom)?;
    let fresh = home.join("libs.partial");
    let _ = std::fs::remove_dir_all(&fresh);
    let output = Command::new("mvn")
        .args(["-q", "-B", "-f"])
        .arg(home.join("pom.xml"))
        .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", fresh.display()))
        .output()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                anyhow!("Maven is missing (command mvn): it fetches Apache Kafka; install maven")
            }
            _ => anyhow!("starting mvn: {error}"),
        })?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stdout);
        bail!(
            "Maven could not fetch Apache Kafka {VERSION}:\n{}",
            tail(&text, 10)
        );
    }
    std::fs::write(fresh.join("complete"), VERSION)?;
    let _ = std::fs::remove_dir_all(libs);
    std::fs::rename(&fresh, libs)?;
    Ok(())
}

/// `$XDG_CACHE_HOME/onceward` or `~/.cache/onceward`.
pub fn cache_folder() -> Result<PathBuf> {
    let base = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) if Path::new(&cache).is_absolute() => PathBuf::from(cache),
        (_, Some(home)) => Path::new(&home).join(".cache"),
        _ => std::env::temp_dir(),
    };
    Ok(base.join("onceward"))
}

/// `$JAVA_HOME/bin/java` or `java` on the path, of version 17 or newer.
fn find_java() -> Result<PathBuf> {
    let java = match std::env::var_os("JAVA_HOME") {
        Some(home) if Path::new(&home).join("bin/java").exists() => {
            Path::new(&home).join("bin/java")
        }
        _ => PathBuf::from("java"),
    };
    let output = Command::new(&java)
        .arg("-version")
        .output()
        .map_err(|_| anyhow!("Java 17 or newer is missing: it runs Apache Kafka"))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let major = text
        .split('"')
        .nth(1)
        .and_then(|version| version.split(['.', '-', '+']).next())
        .and_then(|major| major.parse::<u32>().ok());
    match major {
        Some(major) if major >= 17 => Ok(java),
        Some(major) => bail!("Java 17 or newer is needed to run Apache Kafka, {java:?} is {major}"),
        None => bail!("{java:?} -version gave no version: {}", text.trim()),
    }
}
