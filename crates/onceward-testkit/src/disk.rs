//! A disk of a few MiB that a test can fill: what a database or a broker does when it is full.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::Result;
use crate::process::OwnFolder;

/// A file system of its own, in memory; unmounted when it is dropped, or when the test's process dies.
#[derive(Debug)]
pub struct SmallDisk(OwnFolder);

impl SmallDisk {
    /// Whether this process may mount one: only root may, and only Linux has it.
    pub fn is_allowed() -> bool {
        cfg!(target_os = "linux") && nix::unistd::geteuid().is_root()
    }

    /// Mounts one of so many MiB.
    pub fn mount(mib: u32) -> Result<Self> {
        let folder = OwnFolder::new("onceward-disk-")?;
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "onceward"])
            .arg(folder.path())
            .output()
            .context("starting mount")?;
        if !output.status.success() {
            let told = String::from_utf8_lossy(&output.stderr);
            bail!("no disk of {mib} MiB, which only root can mount: {told}");
        }
        Ok(Self(folder))
    }

    /// Where it is mounted; everybody may write there.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves no byte free, until [`free`](Self::free).
    pub fn fill(&self) -> Result<()> {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.filling())?;
        let zeros = vec![0; 1 << 20];
        let mut length = zeros.len();
        while let Some(some) = zeros.get(..length).filter(|some| !some.is_empty()) {
            match file.write(some) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => length /= 16,
                Err(error) => return Err(error).context("filling the disk"),
            }
        }
        Ok(())
    }

    /// Gives back what [`fill`](Self::fill) took.
    pub fn free(&self) -> Result<()> {
        std::fs::remove_file(self.filling()).context("freeing the disk")
    }

    fn filling(&self) -> PathBuf {
        self.path().join("filling")
    }
}

#[cfg(test)]
mod tests {
    use super::SmallDisk;

    #[test]
    fn a_full_disk_takes_nothing_until_it_is_freed_and_is_gone_in_the_end() {
        if !SmallDisk::is_allowed() {
            return;
        }
        let disk = SmallDisk::mount(2).unwrap();
        let (folder, file) = (disk.path().to_owned(), disk.path().join("some"));
        std::fs::write(&file, "before").unwrap();
        disk.fill().unwrap();
        assert!(std::fs::write(disk.path().join("other"), [0; 8192]).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "before");
        disk.free().unwrap();
        std::fs::write(&file, "after").unwrap();
        drop(disk);
        assert!(!folder.exists());
    }
}
