//! Programs of the JVM, Kafka before all: jars fetched from Maven Central once, kept in the user's cache.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, anyhow, bail};

use super::VERSION;
use crate::Result;
use crate::process::tail;

/// What Kafka's own release adds: without it the broker logs nothing.
pub const LOG4J: &str = "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4";

/// For a JVM that lives for seconds: the quick compiler and the plain collector. A broker is ready after
/// two thirds of the CPU that it takes with the JVM's defaults.
pub(super) const SHORT_LIVED: [&str; 2] = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"];

/// The jars of Kafka, or of something that runs beside it, on this machine.
#[derive(Debug, Clone)]
pub struct Distribution {
    pub(super) java: PathBuf,
    pub(super) libs: PathBuf,
}

impl Distribution {
    /// Finds the jars in the user's cache; `None` if they have not been fetched yet. Fails with one
    /// clear line if Java is missing.
    pub fn find() -> Result<Option<Self>> {
        Self::find_of(&kafka())
    }

    /// Finds the jars in the user's cache or fetches them with Maven (54 MB, once). Safe when several
    /// processes call it at the same time. Fails with one clear line if Java or Maven is missing.
    pub fn find_or_fetch() -> Result<Self> {
        let artifacts = ["kafka_2.13", "kafka-tools"]
            .map(|artifact| format!("org.apache.kafka:{artifact}:{VERSION}"));
        Self::find_or_fetch_of(&kafka(), &[&artifacts[0], &artifacts[1], LOG4J])
    }

    /// The same for any `artifacts`, written `group:artifact:version`, with all they depend on. `name`,
    /// which holds the version, is their folder in the cache.
    pub fn find_or_fetch_of(name: &str, artifacts: &[&str]) -> Result<Self> {
        if let Some(found) = Self::find_of(name)? {
            return Ok(found);
        }
        let java = find_java()?;
        let home = cache_folder()?.join(name);
        let libs = home.join("libs");
        std::fs::create_dir_all(&home).with_context(|| format!("creating {home:?}"))?;
        let lock = std::fs::File::create(home.join("lock"))?;
        lock.lock().with_context(|| format!("locking {home:?}"))?;
        if !libs.join("complete").exists() {
            fetch(name, artifacts, &home, &libs)?;
        }
        Ok(Self { java, libs })
    }

    fn find_of(name: &str) -> Result<Option<Self>> {
        let java = find_java()?;
        let libs = cache_folder()?.join(name).join("libs");
        let complete = libs.join("complete").exists();
        Ok(complete.then_some(Self { java, libs }))
    }

    /// A command that runs a main class of Kafka with a small heap.
    pub fn command(&self, main_class: &str, heap_mib: u32) -> Command {
        let mut command = self.jvm([format!("-Xmx{heap_mib}m")]);
        command.arg(main_class);
        command
    }

    /// A JVM with these options and all jars; its main class is the next argument.
    pub fn jvm(&self, options: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(&self.java);
        command.args(options).arg("-cp").arg(self.libs.join("*"));
        command
    }

    /// One of Kafka's tools.
    pub(super) fn tool(&self, main_class: &str) -> Command {
        let mut command = self.jvm(["-Xmx256m"]);
        command.args(SHORT_LIVED).arg(main_class);
        command
    }
}

fn kafka() -> String {
    format!("kafka-{VERSION}")
}

fn fetch(name: &str, artifacts: &[&str], home: &Path, libs: &Path) -> Result<()> {
    std::fs::write(home.join("pom.xml"), pom(name, artifacts)?)?;
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
                anyhow!("Maven is missing (command mvn): it fetches {name}; install maven")
            }
            _ => anyhow!("starting mvn: {error}"),
        })?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stdout);
        bail!("Maven could not fetch {name}:\n{}", tail(&text, 10));
    }
    std::fs::write(fresh.join("complete"), name)?;
    let _ = std::fs::remove_dir_all(libs);
    std::fs::rename(&fresh, libs)?;
    Ok(())
}

fn pom(name: &str, artifacts: &[&str]) -> Result<String> {
    let mut dependencies = String::new();
    for artifact in artifacts {
        let mut parts = artifact.split(':');
        let (Some(group), Some(id), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            bail!("{artifact:?} is not group:artifact:version");
        };
        dependencies += &format!(
            "    <dependency><groupId>{group}</groupId><artifactId>{id}</artifactId>\
             <version>{version}</version></dependency>\n"
        );
    }
    Ok(format!(
        r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>onceward</groupId><artifactId>{name}</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
{dependencies}  </dependencies>
</project>
"#
    ))
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
