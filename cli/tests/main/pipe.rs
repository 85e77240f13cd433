//! A reader that goes away.

use std::process::{Command, Stdio};

#[test]
fn a_closed_pipe_is_no_panic() {
    for arguments in [
        &["--help"][..],
        &["schema", "check", "sqlite:///nowhere.db"],
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_onceward"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(
            ended.status.code().is_some(),
            "killed by a signal: {:?}",
            ended.status
        );
        assert!(!said.contains("panicked"), "{said}");
    }
}
