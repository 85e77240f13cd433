//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use onceward::consumer::rebuild::Since;
use onceward::{DatabaseUrl, Secret};
use onceward_kafka::KafkaConfig;

const EXAMPLES: &str = "\
Examples:
  onceward status                              everything at a glance, in the folder of `./dev up`
  onceward message trace 0198c0de-…            the whole way of an order, by its id
  onceward dead-letter list                    what needs a person
  onceward verify                              is anything lost, doubled or out of order?
  onceward --database order=postgres://u@h/order --kafka h:9092 status --json

Exit codes:
  0   done; for checks: clean
  1   a check found something broken, or the wish was refused
  2   nothing to check, or nothing of that name
  3   a database or Kafka could not be reached, so the answer is missing or incomplete
  64  the command line is wrong";

/// Looks into outboxes, inboxes, sagas and topics, and mends what needs a person.
#[derive(Debug, Parser)]
#[command(name = "onceward", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub kafka: KafkaConfig,
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Parses. Where to look may stand before or behind the command's words; Kafka's many settings
    /// are shown by `--help`, not by `-h`.
    pub fn parse_all(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let command = Self::command().mut_args(|arg| {
            let rare = arg.get_id().as_str().starts_with("kafka_");
            arg.global(true).hide_short_help(rare).hide_env_values(true)
        });
        let mut matches = command.try_get_matches_from(arguments)?;
        Self::from_arg_matches_mut(&mut matches)
    }
}

/// Where to look, and how to say it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Where and how")]
pub(crate) struct PlaceArgs {
    /// Folder with onceward.json or *.db [default: ./data, found here or above]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "ONCEWARD_DATA",
        hide_env_values = true
    )]
    pub data: Option<PathBuf>,
    /// A database, instead of --data; may be repeated. With a password better in a file: command
    /// lines and environments can be seen by others
    #[arg(
        long,
        global = true,
        value_name = "NAME=URL",
        env = "ONCEWARD_SOURCES",
        hide_env_values = true,
        value_delimiter = ','
    )]
    pub database: Vec<Secret>,
    /// File with the databases: NAME=URL, one a line or comma separated
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "ONCEWARD_SOURCES_FILE",
        hide_env_values = true,
        conflicts_with = "database"
    )]
    pub database_file: Option<PathBuf>,
    /// JSON to stdout instead of tables
    #[arg(long, global = true)]
    pub json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Everything at a glance: per source what is unpublished, per consumer what it lags
    Status,
    /// Messages in the outboxes
    #[command(subcommand)]
    Message(MessageCommand),
    /// What consumers have received
    #[command(subcommand)]
    Inbox(InboxCommand),
    /// Consumers: make their state again from the topics, accept what a log has lost
    #[command(subcommand)]
    Consumer(ConsumerCommand),
    /// Messages that need a person: list, show, replay, discard
    #[command(subcommand)]
    DeadLetter(DeadLetterCommand),
    /// Sagas and their steps
    #[command(subcommand)]
    Saga(SagaCommand),
    /// Databases with an outbox: their identity and health
    #[command(subcommand)]
    Source(SourceCommand),
    /// Topics as code: hold them against a file, and make them so
    #[command(subcommand)]
    Topic(TopicCommand),
    /// The library's tables
    #[command(subcommand)]
    Schema(SchemaCommand),
    /// Prove that nothing is lost, doubled, reordered or left unhandled
    #[command(after_help = VERIFY)]
    Verify(VerifyArgs),
}

const VERIFY: &str = "\
Reads each source's progress first, then the databases, then the topics up to the end they had at
that moment, and says how far back and how far forward it could see. Everything may go on running.

Exit codes: 0 clean, 1 broken, 2 nothing to check, 3 a part could not be read.";

/// `onceward topic …`
#[derive(Debug, Subcommand)]
pub(crate) enum TopicCommand {
    /// What would change; changes nothing
    #[command(after_help = TOPIC_PLAN, after_long_help = TOPIC_FILE)]
    Plan(TopicWish),
    /// Make the topics as the file says; may be repeated
    #[command(after_help = TOPIC_APPLY)]
    Apply(TopicWish),
}

/// How topics should be.
#[derive(Debug, Args)]
pub(crate) struct TopicWish {
    /// The file that says how the topics should be
    #[arg(value_name = "FILE", default_value = "topics.toml")]
    pub file: PathBuf,
    /// A keyed topic that was drained, so that it may get more partitions; may be repeated
    #[arg(long, value_name = "TOPIC")]
    pub drained: Vec<String>,
}

const TOPIC_PLAN: &str = "\
Exit codes: 0 all is as the file says, 1 something would change or is refused, 3 Kafka can't be
asked, 64 the file is wrong. What stands in the file: --help";

const TOPIC_FILE: &str = "\
The file:
  [defaults]            # what a topic has that does not say otherwise
  partitions = 6        # needed, here or at the topic
  replication = 3       # copies; left out: as many as there are brokers, at most 3
  retention = \"7d\"      # 30m, 12h, 7d, forever; left out: as the brokers have it
  compaction = false    # only the last record of a key stays; left out: as the brokers have it
  keyed = true          # whether its records have keys; true unless said

  [topics]
  \"order.created\" = {}
  \"customer\" = { partitions = 1, compaction = true }

Whatever the file says, a topic has unclean.leader.election.enable=false, and min.insync.replicas of
at least 2 where there are three copies. Topics that the file does not name are left alone, and
nothing is ever deleted.

More partitions move keys. So a keyed topic grows only after a drain: stop its writers, wait until
the relays have published all of it and every consumer has read it (onceward status), apply with
--drained TOPIC, and start the relays of its sources once with --accept-repartitioned TOPIC.

Exit codes: 0 all is as the file says, 1 something would change or is refused, 3 Kafka can't be
asked, 64 the file is wrong.";

const TOPIC_APPLY: &str = "\
Does nothing at all if a part of it is refused. What stands in the file: onceward topic plan --help

Exit codes: 0 all is as the file says now, 1 refused, 3 Kafka can't be asked, 64 the file is wrong.";

/// `onceward message …`
#[derive(Debug, Subcommand)]
pub(crate) enum MessageCommand {
    /// Newest messages of the outboxes
    List(MessageList),
    /// One message with headers, payload and what became of it
    Show {
        /// Message id
        id: String,
    },
    /// The whole way of a story: outbox, topic, inboxes, and what it caused next
    #[command(
        after_help = "Example:\n  onceward message trace 0198c0de-0000-7000-8000-000000000001"
    )]
    Trace {
        /// An order id (aggregate id or key), a message id or a correlation id
        id: String,
    },
}

/// Which messages.
#[derive(Debug, Args)]
pub(crate) struct MessageList {
    /// Only this source
    #[arg(long)]
    pub source: Option<String>,
    /// Only this topic
    #[arg(long)]
    pub topic: Option<String>,
    /// Only this key
    #[arg(long)]
    pub key: Option<String>,
    /// Only what the relay has not passed yet
    #[arg(long)]
    pub unpublished: bool,
    /// At most so many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    pub limit: i64,
}

/// `onceward inbox …`
#[derive(Debug, Subcommand)]
pub(crate) enum InboxCommand {
    /// Newest received messages
    List(InboxList),
}

/// Which inbox rows.
#[derive(Debug, Args)]
pub(crate) struct InboxList {
    /// Only this consumer
    #[arg(long)]
    pub consumer: Option<String>,
    /// Only this topic
    #[arg(long)]
    pub topic: Option<String>,
    /// Only this key
    #[arg(long)]
    pub key: Option<String>,
    /// Only this state
    #[arg(long, value_enum)]
    pub state: Option<InboxStateArg>,
    /// At most so many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    pub limit: i64,
}

/// States of an inbox row.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum InboxStateArg {
    Handled,
    Waiting,
    Dead,
    Discarded,
}

impl InboxStateArg {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Handled => "handled",
            Self::Waiting => "waiting",
            Self::Dead => "dead",
            Self::Discarded => "discarded",
        }
    }
}

/// `onceward consumer …`
#[derive(Debug, Subcommand)]
pub(crate) enum ConsumerCommand {
    /// Make a service's state again from the topics, beside the live one, and show the difference
    #[command(after_help = REBUILD)]
    Rebuild(RebuildWish),
    /// Let a stopped partition go on although its log has lost records
    #[command(after_help = ACCEPT_LOSS)]
    AcceptLoss(LossWish),
}

const ACCEPT_LOSS: &str = "\
For a partition whose records went before they were read, whose log was cut, or whose topic was made
anew. Without --yes-lose-records nothing is changed, and it is told what would be lost.

Exit codes: 0 accepted, 1 refused, 2 no such consumer or partition, 3 a database or Kafka could not be
reached, 64 the command line is wrong.

Example:
  onceward consumer accept-loss --consumer inventory-service-group inventory.reserve/1";

/// Which partition.
#[derive(Debug, Args)]
pub(crate) struct LossWish {
    /// The consumer that stopped
    #[arg(long, value_name = "NAME")]
    pub consumer: String,
    /// TOPIC/PARTITION
    pub partition: String,
    /// Acknowledge what is lost
    #[arg(long)]
    pub yes_lose_records: bool,
}

const REBUILD: &str = "\
Only the service's own program knows what its messages do, so that is what runs:
  PROGRAM rebuild SOURCE --into FILE --from TIME [ARGUMENTS]

The live service may go on: its database is read in one snapshot, the topics outside of its group.
What the shadow would send stays in the shadow.

Exit codes: 0 equal, 1 different, 2 the topics don't reach back far enough, 3 a database, Kafka or
the program could not be reached, 64 the command line is wrong.

Example:
  onceward consumer rebuild --consumer inventory-service-group --into shadow.db";

/// Which state, and where it is made again.
#[derive(Debug, Args)]
pub(crate) struct RebuildWish {
    /// The consumer whose service it is
    #[arg(long, value_name = "NAME")]
    pub consumer: String,
    /// The new SQLite file
    #[arg(long, value_name = "FILE")]
    pub into: PathBuf,
    /// Where to begin: beginning, or a time such as 2026-01-02T03:04:05Z
    #[arg(long, value_name = "TIME", default_value = "beginning")]
    pub from: Since,
    /// The service's program: a path, or a name that is looked for beside this one and by PATH
    #[arg(long, value_name = "PROGRAM", default_value = "shop")]
    pub program: PathBuf,
    /// What else it needs: settings of the service, --ignore TABLE.COLUMN
    #[arg(last = true, value_name = "ARGUMENTS")]
    pub arguments: Vec<OsString>,
}

/// `onceward dead-letter …`
#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetterCommand {
    /// All dead letters: refused by Kafka (outbox) or by a consumer (inbox)
    List {
        /// Only this database
        #[arg(long)]
        source: Option<String>,
        /// Also those replayed or discarded already
        #[arg(long)]
        all: bool,
    },
    /// One dead letter with its headers, payload, cause, and what queues behind it
    Show {
        /// Message id, or TOPIC/PARTITION@OFFSET
        letter: String,
        /// Only this consumer's, if several have it
        #[arg(long)]
        consumer: Option<String>,
    },
    /// Ask its owner to try it again, in the order of its key
    #[command(
        after_help = "Examples:\n  onceward dead-letter replay 0198c0de-… --wait\n  \
                      onceward dead-letter replay --parked-in order.created"
    )]
    Replay(ReplayRequest),
    /// Ask its owner to give it up; what queues behind it goes on
    Discard {
        #[command(flatten)]
        request: LetterRequest,
        /// Acknowledge that its effect is missing for good and the key's order has a hole
        #[arg(long)]
        yes_break_order: bool,
    },
    /// Wishes and what became of them
    Requests {
        /// Only those not carried out yet
        #[arg(long)]
        open: bool,
    },
}

/// A wish about one dead letter.
#[derive(Debug, Args)]
pub(crate) struct LetterRequest {
    /// Message id, or TOPIC/PARTITION@OFFSET
    pub letter: String,
    #[command(flatten)]
    pub wish: Wish,
}

/// A wish about one dead letter, or about all of a topic.
#[derive(Debug, Args)]
pub(crate) struct ReplayRequest {
    /// Message id, or TOPIC/PARTITION@OFFSET
    #[arg(required_unless_present = "parked_in")]
    pub letter: Option<String>,
    /// Instead: everything that relays have parked in this topic
    #[arg(long, value_name = "TOPIC", conflicts_with_all = ["letter", "consumer"])]
    pub parked_in: Option<String>,
    #[command(flatten)]
    pub wish: Wish,
}

/// Who wishes it, and whether to wait for it.
#[derive(Debug, Args)]
pub(crate) struct Wish {
    /// Only this consumer's, if several have it
    #[arg(long)]
    pub consumer: Option<String>,
    /// Why, for those who come after
    #[arg(long)]
    pub note: Option<String>,
    /// Who asks
    #[arg(
        long,
        value_name = "NAME",
        env = "USER",
        hide_env_values = true,
        default_value = "operator"
    )]
    pub by: String,
    /// Wait until it is carried out
    #[arg(long)]
    pub wait: bool,
    /// How long to wait
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub timeout: u64,
}

/// `onceward saga …`
#[derive(Debug, Subcommand)]
pub(crate) enum SagaCommand {
    /// Newest sagas
    #[command(after_help = "\
An order without a coordinator (choreography) is no saga and has no log: it stands in no list here.
The service that began it knows where it stands, GET /orders/ID in the shop; what was said about it:
  onceward message trace ID")]
    List {
        /// Only this status
        #[arg(long)]
        status: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..=100_000))]
        limit: i64,
    },
    /// One saga: its events in order, its timers, and what operators did to it
    Show {
        /// Saga id, or the order id it is about
        id: String,
    },
    /// Send again what was not answered: a silent command, or compensations that failed
    Retry(StepWish),
    /// Take a step's answer as given, because you made sure of it
    Skip(StepWish),
    /// End a running saga as completed, whatever is still missing
    ForceComplete(SagaWish),
    /// Turn a running saga back; end one that is being undone, or is stuck, as compensated
    ForceCompensate(SagaWish),
}

/// What an operator wants of a saga. The orchestrator carries it out in one transaction, or refuses
/// what makes no sense; who and why are written to the saga's log.
#[derive(Debug, Args)]
#[command(after_help = "\
The orchestrator carries it out in one transaction, or refuses what makes no sense and changes
nothing. Who and why are written to the saga's log: onceward saga show ID

Example:
  onceward saga retry 0198c0de-… --why 'the stock list is mended, ticket 4711'")]
pub(crate) struct SagaWish {
    /// Saga id, or the order id it is about
    pub id: String,
    /// Why, for those who come after
    #[arg(long, value_name = "TEXT")]
    pub why: String,
    /// Who asks
    #[arg(
        long,
        value_name = "NAME",
        env = "USER",
        hide_env_values = true,
        default_value = "operator"
    )]
    pub by: String,
    /// How long to wait until it is carried out; 0 does not wait
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub timeout: u64,
}

/// [`SagaWish`] about a step.
#[derive(Debug, Args)]
pub(crate) struct StepWish {
    #[command(flatten)]
    pub wish: SagaWish,
    /// Only this step; needed by skip where several are waited for
    #[arg(long, value_name = "STEP")]
    pub step: Option<String>,
}

/// `onceward source …`
#[derive(Debug, Subcommand)]
pub(crate) enum SourceCommand {
    /// The databases and their identity
    List,
    /// Is each source consistent with Kafka, with itself, and safely configured?
    Check {
        /// Only this source
        source: Option<String>,
    },
    /// Accept that the database was moved with all its rows: nothing comes twice
    #[command(after_help = ADOPT)]
    Adopt {
        /// The source; its URL is that of the new place
        source: String,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
    /// Accept the database as it is, after a restore or a lost progress topic
    #[command(after_help = RESET)]
    Reset {
        /// The source
        source: String,
        /// Where publishing resumes
        #[arg(long, value_enum, default_value_t = ResetFrom::Mirror)]
        from: ResetFrom,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
}

const ADOPT: &str = "\
For a database that was moved while nobody wrote: a copied SQLite file, a Postgres database renamed,
cloned, upgraded, or dumped and loaded into another server. Fences the relays, checks that every row
published is there, and starts a new epoch at the same position, so that the old place is shut out.
Rows loaded into another Postgres get transaction ids of that server. May be run again after a crash.
Refuses where rows are missing or cannot be told apart: then only `source reset` helps.

Example:
  onceward source adopt order --database order=postgres://me@new/order --kafka h:9092 --yes";

const RESET: &str = "\
Fences the running relay, writes the progress record with a new epoch to Kafka, then the database's
epoch. May be run again after a crash. Rows published before may be published again under the same
message id: consumers skip them, other readers see them twice.";

/// Where publishing resumes after a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ResetFrom {
    /// What this database knows to be published: nothing is lost, some rows may come twice
    Mirror,
    /// The first row: all rows still there come again
    Start,
    /// After the last row: what is unpublished now is never published
    End,
}

const MIGRATE: &str = "\
Makes, in this database:
  outbox           outbox, outbox_source, outbox_progress, outbox_parked_key, outbox_dead_letter,
                   outbox_dead_letter_request
  inbox            consumer_offset, inbox, inbox_waiting, inbox_dead_letter,
                   inbox_dead_letter_request
  Idempotency-Key  idempotency_key
  to look at       outbox_view, inbox_view
  bookkeeping      _onceward_migrations

Not the tables of sagas and timers (saga_instance, saga_event, saga_step, timer): a service that uses
them makes them itself (onceward_saga::schema::migrate).

Example:
  onceward schema migrate postgres://me@db/shop --source order";

/// `onceward schema …`
#[derive(Debug, Subcommand)]
pub(crate) enum SchemaCommand {
    /// Make or update the library's tables, and name the source; may be run again
    #[command(after_help = MIGRATE)]
    Migrate {
        /// sqlite:… (made if missing) or postgres:… [default: that of the source, see --database]
        url: Option<DatabaseUrl>,
        /// Name of this source: it becomes part of topic names and can't be changed
        #[arg(long)]
        source: String,
    },
    /// Are the library's tables there and up to date?
    Check {
        /// sqlite:… or postgres:…
        #[arg(required_unless_present = "source")]
        url: Option<DatabaseUrl>,
        /// Instead of the URL: that of this source, see --database
        #[arg(long, conflicts_with = "url")]
        source: Option<String>,
    },
}

/// `onceward verify`
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Print at most so many findings
    #[arg(long, default_value_t = 20)]
    pub limit: usize,
}
