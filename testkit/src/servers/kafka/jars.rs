//! The jars of a version: all of them, or none.
//!
//! 1. A folder holds the `pom.xml` by which it was filled. Is that another one than ours, it is
//!    filled anew.
//! 2. It is filled under another name and then renamed, so nobody sees half of it.
//! 3. Whoever fills it holds a lock; others that need it wait for the lock.
//! 4. The archive of classes that makes brokers start fast is made by a broker that is started
//!    and ended for it, under the same lock.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::super::nest::Nest;
use super::super::process::Process;
use super::super::programs;
use super::brokers::Brokers;
use super::java::{Archive, Java};
use super::version::{self, KafkaVersion};
use super::{ALONE, Error, trouble};

/// How long Maven may take: some fifty megabytes, through whatever network there is.
const FETCH_MAX: Duration = Duration::from_secs(600);

const POM: &str = "pom.xml";

const ARCHIVE: &str = "classes.jsa";

/// Whether Maven has nothing left to do.
pub(super) fn are_here(version: KafkaVersion) -> bool {
    is_filled(&folder(version), version.pom())
}

/// The jars and what runs them; fetches and prepares them first when that has to be done.
pub(super) fn java(version: KafkaVersion) -> Result<Java, Error> {
    let program = version::java();
    let program = program.ok_or_else(|| Error::new("the program `java` is missing"))?;
    let jars = folder(version);
    let archive = jars.join(ARCHIVE);
    let java = Java { version, program, jars, archive: Archive::Read(archive.clone()) };
    if are_here(version) && archive.is_file() {
        return Ok(java);
    }
    let _lock = lock(&java.jars)?;
    if !are_here(version) {
        let mvn = programs::find("mvn");
        let mvn = mvn.ok_or_else(|| Error::new("the program `mvn` is missing"))?;
        let failed = format!("Kafka {} cannot be fetched", version.name());
        fill(&java.jars, version.pom(), &mvn).map_err(Error::of(failed))?;
    }
    if !archive.is_file() {
        write_archive(&java, &archive)?;
    }
    Ok(java)
}

/// Where they lie, below cargo's folder for products.
fn folder(version: KafkaVersion) -> PathBuf {
    let kit = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = kit.parent().unwrap_or(kit);
    // What cargo is told may be relative to where it was started.
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    root.join(target).join("kafka").join(version.name())
}

fn is_filled(folder: &Path, pom: &str) -> bool {
    std::fs::read_to_string(folder.join(POM)).is_ok_and(|filled_by| filled_by == pom)
}

/// Waits until nobody else, in this process or another, is at work on the folder. The system ends
/// the lock with the file, even when we are killed.
fn lock(folder: &Path) -> Result<File, Error> {
    let path = folder.with_added_extension("lock");
    let at = || Error::of::<std::io::Error>(format!("{}", path.display()));
    std::fs::create_dir_all(folder.parent().unwrap_or(folder)).map_err(at())?;
    let file = File::options().create(true).append(true).open(&path).map_err(at())?;
    file.lock().map_err(at())?;
    Ok(file)
}

/// Has Maven fill the folder.
fn fill(folder: &Path, pom: &str, mvn: &Path) -> Result<(), Error> {
    let new = folder.with_added_extension("new");
    let at = || Error::of::<std::io::Error>(format!("{}", new.display()));
    clear(&new)?;
    std::fs::create_dir(&new).map_err(at())?;
    std::fs::write(new.join(POM), pom).map_err(at())?;
    let mut command = Command::new(mvn);
    command.args(["--batch-mode", "--quiet", "--file"]).arg(new.join(POM));
    command.args(["dependency:copy-dependencies", "-DincludeScope=runtime"]);
    command.arg(super::java::option("-DoutputDirectory=", &new));
    // It ends with us: a half-filled folder is no use to anybody.
    let nest = Nest::new("kafka-jars")?;
    let log = nest.folder().join("mvn.log");
    let status = Process::spawn(command.current_dir(nest.folder()), &nest, &log)?
        .wait_until_ended(FETCH_MAX)
        .map_err(Error::of("`mvn` takes too long"))?;
    if !status.success() {
        return Err(Error::new(format!("`mvn` failed ({status}){}", trouble(&log))));
    }
    clear(folder)?;
    std::fs::rename(&new, folder).map_err(at())
}

fn clear(folder: &Path) -> Result<(), Error> {
    if !folder.exists() {
        return Ok(());
    }
    std::fs::remove_dir_all(folder).map_err(Error::of(format!("{}", folder.display())))
}

/// Has a broker write the archive as it ends.
fn write_archive(java: &Java, archive: &Path) -> Result<(), Error> {
    let new = archive.with_added_extension("new");
    let at = || Error::of::<std::io::Error>(format!("{}", archive.display()));
    let writer = Java { archive: Archive::Write(new.clone()), ..java.clone() };
    Brokers::start(&writer, 1, &ALONE)?.end()?;
    if !new.is_file() {
        // This JVM cannot. An empty one is passed over, and we need not try again.
        File::create(&new).map_err(at())?;
    }
    std::fs::rename(&new, archive).map_err(at())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A program to call instead of Maven, which fetches one jar and then does what `end` says.
    fn mvn(root: &Path, end: &str) -> PathBuf {
        let program = root.join("mvn");
        let script = format!(
            "#!/bin/sh\nfor it; do case $it in -DoutputDirectory=*) out=${{it#*=}};; esac; done\n\
             echo jar >\"$out/a.jar\"\n{end}\n"
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        program
    }

    #[test]
    fn a_broken_fetch_is_never_taken_for_whole() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("1.0");
        let broken = mvn(root.path(), "echo 'the network is down'; exit 1");
        let error = fill(&folder, "pom", &broken).unwrap_err().to_string();
        assert!(error.contains("the network is down"), "{error}");
        assert!(!folder.exists() && !is_filled(&folder, "pom"));
        fill(&folder, "pom", &mvn(root.path(), "exit 0")).unwrap();
        assert!(is_filled(&folder, "pom") && folder.join("a.jar").is_file());
    }

    #[test]
    fn another_pom_fills_the_folder_anew() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("1.0");
        let mvn = mvn(root.path(), "exit 0");
        fill(&folder, "old", &mvn).unwrap();
        std::fs::write(folder.join("old.jar"), "").unwrap();
        assert!(!is_filled(&folder, "new"));
        fill(&folder, "new", &mvn).unwrap();
        assert!(is_filled(&folder, "new") && !folder.join("old.jar").exists());
    }

    #[test]
    fn whoever_needs_the_folder_waits_for_its_lock() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("kafka/1.0");
        let held = lock(&folder).unwrap();
        let other = File::options().append(true).open(root.path().join("kafka/1.0.lock")).unwrap();
        assert!(other.try_lock().is_err());
        drop(held);
        other.try_lock().unwrap();
    }
}
