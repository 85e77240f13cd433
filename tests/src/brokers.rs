//! Kafka as the world has it: one broker, or a cluster.

use anyhow::{Context, bail};
use onceward_testkit::kafka::{Cluster, ClusterOptions, Kafka};
use onceward_testkit::secure::SecureKafka;

use crate::Result;

/// One broker that is called `kafka`, or several called `kafka-1`, `kafka-2` …
#[derive(Debug)]
pub(crate) enum Brokers {
    One(Box<Kafka>),
    /// One that asks who you are, called `kafka` as well.
    Secure(Box<SecureKafka>),
    Several(Cluster),
}

impl Brokers {
    pub(crate) fn start(brokers: u16) -> Result<Self> {
        Ok(match brokers {
            1 => Self::One(Box::new(Kafka::start()?)),
            brokers => Self::Several(Cluster::start_with(ClusterOptions {
                brokers,
                ..ClusterOptions::default()
            })?),
        })
    }

    pub(crate) fn bootstrap(&self) -> String {
        match self {
            Self::One(kafka) => kafka.bootstrap(),
            Self::Secure(kafka) => kafka.sasl(),
            Self::Several(cluster) => cluster.bootstrap(),
        }
    }

    /// The broker of this name; `None` if that is the name of no broker.
    pub(crate) fn called(&mut self, name: &str) -> Option<&mut Kafka> {
        match self {
            Self::One(kafka) => (name == "kafka").then_some(kafka),
            // Nobody kills it here.
            Self::Secure(_) => None,
            Self::Several(cluster) => {
                let id: usize = name.strip_prefix("kafka-")?.parse().ok()?;
                cluster.nodes().get_mut(id.checked_sub(1)?)
            }
        }
    }

    pub(crate) fn cluster(&mut self) -> Result<&mut Cluster> {
        match self {
            Self::Several(cluster) => Ok(cluster),
            Self::One(_) | Self::Secure(_) => bail!("this world has one broker"),
        }
    }

    /// Runs one of Kafka's tools against this Kafka.
    pub(crate) fn run_tool(&mut self, main_class: &str, arguments: &[&str]) -> Result<String> {
        let bootstrap = self.bootstrap();
        let mut all = vec!["--bootstrap-server", bootstrap.as_str()];
        all.extend(arguments);
        let kafka = match self {
            Self::One(kafka) => kafka,
            Self::Secure(_) => bail!("the tools know no password"),
            Self::Several(cluster) => cluster.nodes().first_mut().context("no broker")?,
        };
        kafka.run_tool(main_class, &all)
    }
}
