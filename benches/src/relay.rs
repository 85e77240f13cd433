//! Whose relay is measured: ours, or one beside it.

use anyhow::{Context, Result};
use clap::ValueEnum;
use onceward_testkit::process::Process;

use crate::debezium;
use crate::programs::Served;
use crate::source::Source;
use crate::stage::Stage;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Whose {
    #[value(skip)]
    Ours,
    /// Ours with the publisher for brokers without transactions of version 2
    #[value(skip)]
    OursByRdkafka,
    /// Its Postgres connector and outbox router, in Kafka Connect from Maven Central
    Debezium,
}

impl Whose {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "Onceward",
            Self::OursByRdkafka => "by rdkafka",
            Self::Debezium => "Debezium",
        }
    }

    /// A case's name, as measured with this relay.
    pub(crate) fn case(self, name: &str) -> String {
        match self {
            Self::Ours => name.to_owned(),
            other => format!("{name}, {}", other.name()),
        }
    }

    /// Whether a case of this name is ours as it comes, which the targets are for.
    pub(crate) fn is_ours(case: &str) -> bool {
        let others = [Self::OursByRdkafka, Self::Debezium];
        !others.iter().any(|other| case.ends_with(&other.case("")))
    }
}

/// One that was started.
pub(crate) enum Relay {
    Ours(Served),
    Debezium(debezium::Worker),
}

impl Relay {
    /// Starts the one that publishes these sources, ours with these arguments. It is not waited for.
    pub(crate) fn start(stage: &Stage, sources: &[&Source], arguments: &[String]) -> Result<Self> {
        let first = sources.first().context("no source")?;
        Ok(match first.whose {
            ours @ (Whose::Ours | Whose::OursByRdkafka) => {
                let sources: Vec<String> = sources.iter().map(|source| source.option()).collect();
                let mut arguments = arguments.to_vec();
                if ours == Whose::OursByRdkafka {
                    arguments.extend(["--publisher", "rdkafka"].map(str::to_owned));
                }
                Self::Ours(stage.relay_with(&stage.kafka, &sources, &arguments)?)
            }
            Whose::Debezium => Self::Debezium(debezium::Worker::start(
                &stage.kafka,
                stage.postgres.port(),
                stage.folder.path(),
                sources,
            )?),
        })
    }

    /// Waits until a row that is committed now will be published.
    pub(crate) async fn wait_ready(&mut self) -> Result<()> {
        match self {
            Self::Ours(served) => served.wait_ready().await,
            Self::Debezium(worker) => worker.wait_ready().await,
        }
    }

    fn served(&self) -> &Served {
        match self {
            Self::Ours(served) => served,
            Self::Debezium(worker) => &worker.served,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.served().pid()
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        match self {
            Self::Ours(served) => &mut served.process,
            Self::Debezium(worker) => &mut worker.served.process,
        }
    }

    /// The end of what it has logged.
    pub(crate) fn said(&self) -> String {
        self.served().process.log_tail(20)
    }

    /// Kills it for good.
    pub(crate) async fn end(self) -> Result<()> {
        match self {
            Self::Ours(mut served) => {
                served.process.kill9()?;
                Ok(())
            }
            Self::Debezium(worker) => worker.end().await,
        }
    }
}
