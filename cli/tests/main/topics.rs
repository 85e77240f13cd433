//! `topic plan` and `apply`, on a real broker.

use onceward_testkit::kafka;
use tempfile::TempDir;

use crate::fixture::{Said, onceward_in};

/// A folder with a file of topics; `T` in it stands for a prefix of the test's own.
struct Topics {
    folder: TempDir,
    prefix: String,
}

impl Topics {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().file_name().unwrap().to_string_lossy();
        let prefix = format!("t{}", name.trim_start_matches('.'));
        Self { folder, prefix }
    }

    fn say(&self, file: &str) {
        let path = self.folder.path().join("topics.toml");
        std::fs::write(path, file.replace("T.", &format!("{}.", self.prefix))).unwrap();
    }

    /// What the command says, with `T.` for the prefix again.
    fn onceward(&self, words: &[&str]) -> Said {
        let broker = kafka::shared().unwrap().bootstrap();
        let file = self.folder.path().join("topics.toml");
        let named: Vec<String> = words
            .iter()
            .map(|word| word.replace("T.", &format!("{}.", self.prefix)))
            .collect();
        let mut all = vec!["topic"];
        all.extend(named.iter().map(String::as_str));
        all.insert(2, file.to_str().unwrap());
        all.extend(["--kafka", &broker]);
        let said = onceward_in(self.folder.path().to_owned(), &all);
        let plain = |text: String| text.replace(&format!("{}.", self.prefix), "T.");
        Said {
            exit: said.exit,
            out: plain(said.out),
            err: plain(said.err),
        }
    }

    /// Kafka's own tool on one topic.
    fn tool(&self, topic: &str, words: &[&str]) -> String {
        let broker = kafka::shared().unwrap();
        let (address, name) = (broker.bootstrap(), format!("{}.{topic}", self.prefix));
        let mut all = vec!["--bootstrap-server", &address, "--topic", &name];
        all.extend(words);
        broker
            .run_tool("org.apache.kafka.tools.TopicCommand", &all)
            .unwrap()
    }
}

#[track_caller]
fn says(said: &Said, exit: u8, lines: &[&str]) {
    assert_eq!(said.exit.code(), exit, "{}", said.all());
    let found: Vec<&str> = said.out.lines().collect();
    assert_eq!(found, lines, "{}", said.all());
}

#[test]
fn topics_become_what_the_file_says_and_nothing_else_changes() {
    let topics = Topics::new();
    let by_hand = ["--create", "--partitions", "2", "--config"];
    topics.tool(
        "old",
        &[&by_hand[..], &["max.message.bytes=2000000"]].concat(),
    );
    topics.tool("unnamed", &["--create", "--partitions", "1"]);
    topics.say(
        "[defaults]\npartitions = 2\nretention = \"7d\"\n\
         [topics]\n\"T.new\" = { compaction = true }\n\"T.old\" = {}\n",
    );
    let made = "make T.new: partitions=2, copies=1, cleanup.policy=compact,delete, \
                min.insync.replicas=1, retention.ms=604800000, unclean.leader.election.enable=false";
    let plan = topics.onceward(&["plan"]);
    assert_eq!(plan.exit.code(), 1, "{}", plan.all());
    assert!(plan.out.starts_with(made), "{}", plan.all());
    assert!(plan.err.contains("nothing was changed"), "{}", plan.all());
    let applied = topics.onceward(&["apply"]);
    assert_eq!(applied.exit.code(), 0, "{}", applied.all());
    assert!(applied.out.starts_with(made), "{}", applied.all());
    for command in ["plan", "apply"] {
        let done = if command == "plan" {
            "would change"
        } else {
            "changed"
        };
        let nothing = format!("0 of 2 topics {done}, 2 are as the file says");
        says(&topics.onceward(&[command]), 0, &[&nothing]);
    }

    topics.say(
        "[defaults]\npartitions = 2\nretention = \"1d\"\n\
         [topics]\n\"T.new\" = { compaction = true, retention = \"7d\" }\n\"T.old\" = {}\n",
    );
    let set = [
        "set T.old: retention.ms=86400000 (was 604800000)",
        "1 of 2 topics changed, 1 are as the file says",
    ];
    says(&topics.onceward(&["apply"]), 0, &set);
    let old = topics.tool("old", &["--describe"]);
    for setting in ["max.message.bytes=2000000", "retention.ms=86400000"] {
        assert!(old.contains(setting), "{setting} not in {old}");
    }
    assert!(
        topics
            .tool("unnamed", &["--describe"])
            .contains("PartitionCount: 1")
    );
}

#[test]
fn a_keyed_topic_grows_only_when_it_was_drained_and_all_or_nothing_is_done() {
    let topics = Topics::new();
    topics.say(
        "[defaults]\npartitions = 2\n[topics]\n\"T.keyed\" = {}\n\"T.loose\" = { keyed = false }\n",
    );
    let applied = topics.onceward(&["apply"]);
    assert_eq!(applied.exit.code(), 0, "{}", applied.all());
    topics.say(
        "[defaults]\npartitions = 3\n[topics]\n\"T.keyed\" = {}\n\"T.loose\" = { keyed = false }\n",
    );
    for command in ["plan", "apply"] {
        let said = topics.onceward(&[command]);
        assert_eq!(said.exit.code(), 1, "{}", said.all());
        for part in [
            "refused T.keyed: it has 2 partitions and should have 3",
            "--drained T.keyed",
            "--accept-repartitioned T.keyed",
            "grow T.loose: 3 partitions (were 2)\n",
        ] {
            assert!(said.out.contains(part), "{part} not in {}", said.all());
        }
    }
    for topic in ["keyed", "loose"] {
        let there = topics.tool(topic, &["--describe"]);
        assert!(there.contains("PartitionCount: 2"), "{there}");
    }
    let grown = [
        "grow T.keyed: 3 partitions (were 2); start the relays of its sources once with \
         --accept-repartitioned",
        "grow T.loose: 3 partitions (were 2)",
        "2 of 2 topics changed, 0 are as the file says",
    ];
    says(
        &topics.onceward(&["apply", "--drained", "T.keyed"]),
        0,
        &grown,
    );
    let plan = topics.onceward(&["plan"]);
    assert_eq!(plan.exit.code(), 0, "{}", plan.all());

    topics.say("[topics]\n\"T.keyed\" = { partitions = 1 }\n");
    let shrunk = topics.onceward(&["apply", "--drained", "T.keyed"]);
    assert_eq!(shrunk.exit.code(), 1, "{}", shrunk.all());
    assert!(
        shrunk.out.contains("can't take partitions away"),
        "{}",
        shrunk.all()
    );
}

#[test]
fn a_file_that_is_wrong_is_refused_whole() {
    let topics = Topics::new();
    topics.say("[topics]\n\"T.a\" = {}\n\"T.b\" = { partitions = 1, retention = \"soon\" }\n");
    let said = topics.onceward(&["apply"]);
    assert_eq!(said.exit.code(), 64, "{}", said.all());
    for part in ["T.a: partitions are missing", "T.b: retention \"soon\""] {
        assert!(said.err.contains(part), "{part} not in {}", said.all());
    }
    let shop = include_str!("../../../services/contracts/topics.toml");
    topics.say(shop);
    let said = topics.onceward(&["plan"]);
    assert!(
        said.out.contains(" of 49 topics would change"),
        "{}",
        said.all()
    );
}
