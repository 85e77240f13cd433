//! Processes that are killed, stopped, crash in a loop, refuse to stop.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xtask::manifest::{Manifest, Process, State};
use xtask::probe::Ready;
use xtask::supervisor::{Handle, Spec, Supervisor};

/// A supervisor on a folder of its own, with all that it said.
struct World {
    folder: tempfile::TempDir,
    handle: Handle,
    said: Arc<Mutex<Vec<String>>>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let lines = said.clone();
        let manifest = Manifest {
            format: 1,
            kafka: "127.0.0.1:1".to_owned(),
            relay: "http://127.0.0.1:2".to_owned(),
            sources: Vec::new(),
            processes: Vec::new(),
        };
        let (supervisor, handle) = Supervisor::new(
            manifest,
            &folder.path().join("onceward.json"),
            folder.path(),
            Box::new(move |line| lines.lock().unwrap().push(line.to_owned())),
        );
        tokio::spawn(supervisor.run());
        Self {
            folder,
            handle,
            said,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    async fn process(&self, name: &str) -> Process {
        let all = self.handle.list().await;
        all.into_iter()
            .find(|process| process.name == name)
            .unwrap()
    }

    #[track_caller]
    fn until(
        &self,
        name: &'static str,
        at_most: Duration,
        state: impl Fn(&Process) -> bool,
    ) -> impl Future<Output = Process> {
        let caller = std::panic::Location::caller();
        let begun = Instant::now();
        async move {
            loop {
                let process = self.process(name).await;
                if state(&process) {
                    return process;
                }
                assert!(
                    begun.elapsed() < at_most,
                    "{caller}: {process:?} {:?}",
                    self.said()
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

fn shell(script: &str) -> impl Fn() -> Command + Send + 'static {
    let script = script.to_owned();
    move || {
        let mut command = Command::new("sh");
        command.arg("-c").arg(&script);
        command
    }
}

fn kill9(pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
}

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_process_killed_with_9_is_back_within_a_second() {
    let world = World::new();
    world
        .handle
        .add(Spec::new("sleeper", shell("exec sleep 600")));
    world.handle.ready("sleeper").await.unwrap();
    let mut last = world.process("sleeper").await.pid.unwrap();
    // Again and again: somebody's kill -9 is no crash loop and earns no delay.
    for time in 1..=5 {
        kill9(last);
        let back = world
            .until("sleeper", Duration::from_secs(1), |process| {
                process.state == State::Running && process.restarts == time
            })
            .await;
        assert_ne!(back.pid, Some(last));
        last = back.pid.unwrap();
        let manifest = Manifest::read(&world.path("onceward.json"))
            .unwrap()
            .unwrap();
        assert_eq!(
            manifest.processes,
            world.handle.list().await,
            "the manifest is kept true"
        );
    }
    assert!(world.said()[0].contains("sleeper ended by itself (killed by SIGKILL)"));
    world.handle.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_delayed_restart_waits_its_time() {
    let world = World::new();
    let mut spec = Spec::new("slow", shell("exec sleep 600"));
    spec.restart_after = Duration::from_millis(700);
    world.handle.add(spec);
    world.handle.ready("slow").await.unwrap();
    kill9(world.process("slow").await.pid.unwrap());
    let begun = Instant::now();
    let waiting = world
        .until("slow", Duration::from_secs(1), |p| {
            p.state == State::Waiting
        })
        .await;
    assert_eq!(waiting.pid, None);
    world
        .until("slow", Duration::from_secs(60), |process| {
            process.state == State::Running
        })
        .await;
    assert!(
        begun.elapsed() >= Duration::from_millis(650),
        "{:?}",
        begun.elapsed()
    );
    world.handle.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_stopped_process_stays_stopped_until_it_is_started() {
    let world = World::new();
    let starts = world.path("starts");
    let script = format!("echo started >> {}; exec sleep 600", starts.display());
    world.handle.add(Spec::new("payment", shell(&script)));
    world
        .handle
        .add(Spec::new("other", shell("exec sleep 600")));
    world.handle.ready("payment").await.unwrap();
    world.handle.ready("other").await.unwrap();
    // Ready means that it runs; its shell may not have come to the line yet.
    tokio::time::timeout(Duration::from_secs(60), async {
        while lines(&starts).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();

    assert_eq!(
        world.handle.stop("payment").await.unwrap(),
        "payment is stopped"
    );
    let stopped = world.process("payment").await;
    assert_eq!(
        (stopped.state, stopped.pid, stopped.restarts),
        (State::Stopped, None, 0)
    );
    // Long enough for a restart, seen at the neighbour.
    kill9(world.process("other").await.pid.unwrap());
    world
        .until("other", Duration::from_secs(60), |process| {
            process.state == State::Running && process.restarts == 1
        })
        .await;
    assert_eq!(world.process("payment").await.state, State::Stopped);
    assert_eq!(lines(&starts).len(), 1);

    world.handle.start("payment").await.unwrap();
    assert_eq!(world.process("payment").await.state, State::Running);
    let unknown = world.handle.stop("nobody").await.unwrap_err().to_string();
    assert_eq!(
        unknown,
        "there is no process \"nobody\"; there are payment, other"
    );
    world.handle.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_crash_loop_backs_off_and_says_why() {
    let world = World::new();
    let starts = world.path("starts");
    let script = format!(
        "date +%s%N >> {}; echo the database is gone; exit 3",
        starts.display()
    );
    let mut spec = Spec::new("broken", shell(&script));
    spec.ready = Ready::Http(1); // never
    world.handle.add(spec);
    let reason = world.handle.ready("broken").await.unwrap_err().to_string();
    assert!(reason.contains("exit code 3, 3 times in a row"), "{reason}");
    assert!(reason.contains("the database is gone"), "{reason}");
    world
        .until("broken", Duration::from_secs(60), |process| {
            process.restarts == 5
        })
        .await;
    let times: Vec<u128> = lines(&starts)
        .iter()
        .map(|line| line.parse().unwrap())
        .collect();
    let pauses: Vec<u128> = times
        .windows(2)
        .map(|two| (two[1] - two[0]) / 1_000_000)
        .collect();
    assert!(
        pauses[0] < 500,
        "the first restart comes at once: {pauses:?}"
    );
    assert!(
        pauses[2] >= 1000 && pauses[3] >= 2000,
        "then it backs off: {pauses:?}"
    );
    let said = world.said().join("\n");
    assert!(
        said.contains("broken ended by itself (exit code 3)"),
        "{said}"
    );
    assert!(said.contains("    the database is gone"), "{said}");
    world.handle.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_missing_program_is_said_and_fails_the_start() {
    let world = World::new();
    world
        .handle
        .add(Spec::new("ghost", || Command::new("/no/such/program")));
    let reason = world.handle.ready("ghost").await.unwrap_err();
    assert!(
        format!("{reason:#}").contains("/no/such/program"),
        "{reason:#}"
    );
    world.handle.shutdown().await.unwrap();
}

#[tokio::test]
async fn all_stop_in_order_and_none_is_left() {
    let world = World::new();
    let order = world.path("order");
    // The signal is handled at once because the shell waits in a builtin.
    let script = |name: &str| {
        format!(
            "trap 'echo {name} >> {}; kill $child; exit 0' TERM; sleep 600 & child=$!; wait",
            order.display()
        )
    };
    for (name, rank) in [("kafka", 2), ("relay", 1), ("order", 0), ("payment", 0)] {
        let mut spec = Spec::new(name, shell(&script(name)));
        spec.stop_rank = rank;
        world.handle.add(spec);
    }
    let mut pids = Vec::new();
    for name in ["kafka", "relay", "order", "payment"] {
        world.handle.ready(name).await.unwrap();
        pids.push(world.process(name).await.pid.unwrap());
    }
    wait_for_traps(&pids).await;
    world.handle.shutdown().await.unwrap();
    world.handle.ended().await;
    let stopped = lines(&order);
    assert_eq!(stopped[2..], ["relay", "kafka"], "{stopped:?}");
    for pid in pids {
        assert!(
            !Path::new(&format!("/proc/{pid}")).exists(),
            "{pid} is left"
        );
    }
    let manifest = Manifest::read(&world.path("onceward.json"))
        .unwrap()
        .unwrap();
    assert!(
        manifest
            .processes
            .iter()
            .all(|p| p.state == State::Stopped && p.pid.is_none())
    );
}

/// Until each shell has its child, and so its trap before it.
async fn wait_for_traps(pids: &[u32]) {
    let begun = Instant::now();
    for pid in pids {
        let children = format!("/proc/{pid}/task/{pid}/children");
        while std::fs::read_to_string(&children).is_ok_and(|text| text.is_empty()) {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "{pid} has no child"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn one_that_will_not_stop_is_killed_and_a_frozen_one_stops() {
    let world = World::new();
    let mut spec = Spec::new(
        "deaf",
        shell("trap '' TERM; echo deaf; while :; do sleep 0.1; done"),
    );
    spec.stop_at_most = Duration::from_millis(300);
    world.handle.add(spec);
    world
        .handle
        .add(Spec::new("frozen", shell("exec sleep 600")));
    world.handle.ready("deaf").await.unwrap();
    world.handle.ready("frozen").await.unwrap();
    let begun = Instant::now();
    while lines(&world.path("deaf.log")).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let frozen = world.process("frozen").await.pid.unwrap();
    kill(Pid::from_raw(frozen.cast_signed()), Signal::SIGSTOP).unwrap();
    world.handle.stop("frozen").await.unwrap();
    world.handle.stop("deaf").await.unwrap();
    let said = world.said().join("\n");
    assert!(
        said.contains("deaf did not stop within 300ms: killed"),
        "{said}"
    );
    world.handle.shutdown().await.unwrap();
}
