//! Several brokers as one cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use super::metadata::brokers_and_partitions;
use super::{Kafka, KafkaOptions, cluster_id};
use crate::ports::Port;
use crate::process::{OwnFolder, asked_or_own};
use crate::{Result, wait};

/// A broker's place in a cluster.
#[derive(Debug, Clone)]
pub struct Member {
    /// Node id: 1, 2, 3 and so on.
    pub id: u16,
    /// The same for all members: 16 bytes in base64.
    pub cluster_id: String,
    /// Controller ports of all members, in the order of their ids.
    pub controller_ports: Vec<u16>,
}

impl Member {
    /// All controllers, as Kafka's configuration wants them.
    pub(super) fn voters(&self) -> String {
        let voters = self.controller_ports.iter().zip(1..);
        let voters: Vec<String> = voters
            .map(|(port, id)| format!("{id}@127.0.0.1:{port}"))
            .collect();
        voters.join(",")
    }
}

/// How to start a cluster; `Default` is what tests want.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Each broker keeps its data in a folder `kafka-1`, `kafka-2` … of this one; `None` = folders
    /// that are removed.
    pub data_dir: Option<PathBuf>,
    /// Ports for clients and of the controllers, one pair per broker; fewer than brokers: free ones.
    pub ports: Vec<(u16, u16)>,
    /// Number of brokers.
    pub brokers: u16,
    /// Java heap of each in MiB.
    pub heap_mib: u32,
    /// Whether they run for minutes under load, see [`KafkaOptions::long_lived`].
    pub long_lived: bool,
    /// Lines of `server.properties` that are added to ours or replace them, the same for all.
    pub properties: Vec<(String, String)>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            data_dir: None,
            ports: Vec::new(),
            brokers: 3,
            heap_mib: 384,
            long_lived: false,
            properties: Vec::new(),
        }
    }
}

/// Brokers that keep copies of each other's partitions: with three, every topic has three copies, two of
/// which must have a record before it is acknowledged, Kafka's own topics included.
///
/// Each node is broker and controller in one. Unlike a node that stands alone it needs no care after
/// `kill -9`: Kafka 4.3 forgets the markers of a transaction if their partition has no leader at the
/// moment, and here the controllers that live on give its partitions another leader when they fence the
/// dead broker. If all are killed at once, partitions are without a leader while all restart; but then
/// the coordinator can't write that it has forgotten the markers, as that takes two copies in sync, and
/// sends them again once it can.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Kafka>,
    // Dropped last, when all nodes are killed: they keep the ports and remove the folder.
    _ports: Vec<Port>,
    _own: Option<OwnFolder>,
}

impl Cluster {
    /// Starts three brokers on free ports of 127.0.0.1 with data that is removed at the end, and waits
    /// until all answer.
    pub fn start() -> Result<Self> {
        Self::start_with(ClusterOptions::default())
    }

    /// Starts a cluster as described and waits until all of it answers.
    pub fn start_with(options: ClusterOptions) -> Result<Self> {
        let mut cluster = Self::prepare(options)?;
        cluster.start_again()?;
        Ok(cluster)
    }

    /// Everything but the start: jars, configuration, formatted data folders. Folders that have been
    /// formatted before are used as they are.
    pub fn prepare(options: ClusterOptions) -> Result<Self> {
        let count = usize::from(options.brokers);
        ensure!(count > 0, "a cluster needs a broker");
        let mut taken = Vec::new();
        let mut free = || -> Result<u16> {
            taken.push(Port::take()?);
            Ok(taken.last().map_or(0, Port::number))
        };
        let mut ports = options.ports.clone();
        while ports.len() < count {
            ports.push((free()?, free()?));
        }
        let (folder, own) = asked_or_own(options.data_dir.clone(), "onceward-kafka-")?;
        let folders: Vec<PathBuf> = (1..=options.brokers)
            .map(|id| folder.join(format!("kafka-{id}")))
            .collect();
        let controller_ports: Vec<u16> = ports.iter().map(|(_, controller)| *controller).collect();
        // A member whose folder was lost is formatted for the cluster of the others.
        let known = folders.iter().find_map(|folder| formatted_for(folder));
        let cluster_id = known.unwrap_or_else(cluster_id);
        let members = folders.into_iter().zip(ports).zip(1..);
        let members = members.map(|((folder, (port, controller_port)), id)| KafkaOptions {
            format_arguments: Vec::new(),
            data_dir: Some(folder),
            port: Some(port),
            controller_port: Some(controller_port),
            member: Some(Member {
                id,
                cluster_id: cluster_id.clone(),
                controller_ports: controller_ports.clone(),
            }),
            heap_mib: options.heap_mib,
            long_lived: options.long_lived,
            properties: options.properties.clone(),
        });
        // Side by side: formatting takes a JVM's start each.
        let preparing: Vec<_> = members
            .map(|member| std::thread::spawn(|| Kafka::prepare(member)))
            .collect();
        let mut nodes = Vec::new();
        for node in preparing {
            match node.join() {
                Ok(node) => nodes.push(node?),
                Err(_) => bail!("preparing Kafka has panicked"),
            }
        }
        Ok(Self {
            nodes,
            _ports: taken,
            _own: own,
        })
    }

    /// `127.0.0.1:port,127.0.0.1:port,…`, for clients: with all of them it does not matter which one
    /// is down.
    pub fn bootstrap(&self) -> String {
        let all: Vec<String> = self.nodes.iter().map(Kafka::bootstrap).collect();
        all.join(",")
    }

    /// The brokers, in the order of their ids; the first has id 1.
    pub fn nodes(&mut self) -> &mut [Kafka] {
        &mut self.nodes
    }

    /// Starts all that do not run and waits until all answer.
    pub fn start_again(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            if node.process.is_none() {
                node.launch()?;
            }
        }
        self.nodes.iter_mut().try_for_each(Kafka::wait_ready)
    }

    /// Kills all of them at once.
    pub fn kill9(&mut self) -> Result<()> {
        self.nodes.iter_mut().try_for_each(Kafka::kill9)
    }

    /// Waits until every copy of every partition is in sync again, as everybody has to before he stops
    /// the next broker.
    pub fn wait_in_sync(&self, at_most: Duration) -> Result<()> {
        let mut last = String::new();
        wait::until("all copies in sync", at_most, || {
            last = self.out_of_sync();
            Ok(last.is_empty().then_some(()))
        })
        .with_context(|| last.clone())
    }

    /// What is not in sync as any of the brokers knows it; empty if all is.
    fn out_of_sync(&self) -> String {
        for node in &self.nodes {
            let address = node.bootstrap();
            match brokers_and_partitions(&address) {
                Err(error) => return format!("{address}: {error:#}"),
                Ok((brokers, _)) if brokers.len() < self.nodes.len() => {
                    return format!("{address} knows {} brokers", brokers.len());
                }
                Ok((_, partitions)) => {
                    let behind = partitions.iter().find(|one| one.in_sync < one.replicas);
                    if let Some(one) = behind {
                        return format!(
                            "{address}: {} of {} copies of {}/{} are in sync",
                            one.in_sync, one.replicas, one.topic, one.index
                        );
                    }
                }
            }
        }
        String::new()
    }

    /// The brokers on their own, for a supervisor.
    pub fn into_nodes(self) -> Vec<Kafka> {
        self.nodes
    }
}

/// The id of the cluster that a member's folder was formatted for.
fn formatted_for(folder: &Path) -> Option<String> {
    let text = std::fs::read_to_string(folder.join("data/meta.properties")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("cluster.id="));
    line.map(str::to_owned)
}
