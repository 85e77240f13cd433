//! Where things are: brokers and their connections, leaders of partitions, the coordinator of the
//! transactions. Asked before a transaction begins, so that what fails here has begun nothing.

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;

use tokio::time::Instant;

use super::connection::{CONNECT_AT_MOST, Connection, WireError};
use super::fault::{Code, Kind};
use super::message::{
    Abilities, ApiVersions, ClusterMetadata, FindCoordinator, Metadata, NEEDED, Request,
};
use super::settings::Settings;

/// Trouble while no transaction is open.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// It may pass.
    #[error("{0}")]
    Passing(String),
    /// A broker closed the connection or wrote nonsense. It may pass; at the first contact it may also
    /// be that one side speaks TLS and the other does not.
    #[error("{0}")]
    Cut(String),
    /// A person has to mend it.
    #[error("{0}")]
    Lasting(String),
    /// A newer producer took over.
    #[error("fenced by a newer producer")]
    Fenced,
}

impl From<WireError> for Trouble {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Refused { .. } => Self::Lasting(error.to_string()),
            WireError::Malformed { .. } => Self::Cut(error.to_string()),
            WireError::Io { ref source, .. } if source.kind() != ErrorKind::ConnectionRefused => {
                Self::Cut(error.to_string())
            }
            WireError::Io { .. } | WireError::TimedOut { .. } => Self::Passing(error.to_string()),
        }
    }
}

impl Trouble {
    /// `need`: the right that it takes.
    pub(super) fn of(code: Code, doing: &str, need: &str) -> Self {
        match code.kind() {
            Kind::Fenced => Self::Fenced,
            Kind::Configuration | Kind::Topic => {
                Self::Lasting(format!("{doing}: {}", code.told(need)))
            }
            _ => Self::Passing(format!("{doing}: {code}")),
        }
    }
}

/// What is known of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leader {
    /// This broker leads it.
    Broker(i32),
    /// Nobody does now.
    None,
    /// The topic has no such partition.
    NoPartition,
    /// There is no such topic, as far as the brokers know now.
    NoTopic,
    /// The topic can't be described.
    Refused(Code),
    /// Nobody asked yet.
    Unknown,
}

/// Not an id of a broker: the connection whose broker is not known yet.
const FIRST: i32 = -1;

/// A cluster, as one producer sees it.
pub(super) struct Cluster {
    settings: Settings,
    transactional_id: String,
    addresses: BTreeMap<i32, String>,
    connections: BTreeMap<i32, Connection>,
    coordinator: Option<i32>,
    /// Leader of each partition, by topic.
    topics: HashMap<String, Result<Vec<Option<i32>>, Code>>,
}

impl Cluster {
    pub(super) fn new(settings: Settings, transactional_id: String) -> Self {
        Self {
            settings,
            transactional_id,
            addresses: BTreeMap::new(),
            connections: BTreeMap::new(),
            coordinator: None,
            topics: HashMap::new(),
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What any broker of the cluster can do, and that this is enough: why not, else.
    pub(super) async fn missing_ability(
        &mut self,
        until: Instant,
    ) -> Result<Option<String>, Trouble> {
        let abilities = self.ask(&ApiVersions, until).await?;
        Ok(lacks(&abilities))
    }

    /// Asks any broker.
    async fn ask<R: Request>(&mut self, request: &R, until: Instant) -> Result<R::Answer, Trouble> {
        let node = self.any().await?;
        self.call(node, request, until).await
    }

    /// Asks a broker that is connected. A connection that fails is dropped.
    async fn call<R: Request>(
        &mut self,
        node: i32,
        request: &R,
        until: Instant,
    ) -> Result<R::Answer, Trouble> {
        let Some(connection) = self.connections.get_mut(&node) else {
            return Err(Trouble::Passing(format!("broker {node} is not connected")));
        };
        match connection.call(request, until).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                self.connections.remove(&node);
                Err(error.into())
            }
        }
    }

    /// A broker that is connected: one that already is, or else the first that answers.
    async fn any(&mut self) -> Result<i32, Trouble> {
        let nodes: Vec<i32> = self.connections.keys().copied().collect();
        for node in nodes {
            if self.is_connected(node).await {
                return Ok(node);
            }
        }
        let known = self.addresses.values();
        let mut addresses: Vec<String> = self.settings.bootstrap.clone();
        addresses.extend(known.cloned());
        addresses.dedup();
        let mut trouble = Trouble::Passing("no address to connect to".into());
        for address in addresses {
            match self.open_answering(&address).await {
                Ok(connection) => {
                    self.connections.insert(FIRST, connection);
                    return Ok(FIRST);
                }
                Err(error) => trouble = error.into(),
            }
        }
        Err(trouble)
    }

    /// A connection that a broker answers on: a port may be open and nobody behind it, as that of a frozen
    /// broker or of a proxy whose broker is gone. Then the next address is tried.
    async fn open_answering(&self, address: &str) -> Result<Connection, WireError> {
        let mut connection = Connection::open(address, &self.settings).await?;
        let until = Instant::now() + CONNECT_AT_MOST;
        connection.call(&ApiVersions, until).await?;
        Ok(connection)
    }

    async fn is_connected(&mut self, node: i32) -> bool {
        let Some(connection) = self.connections.get_mut(&node) else {
            return false;
        };
        let fit = connection.is_fit().await;
        if !fit {
            self.connections.remove(&node);
        }
        fit
    }

    /// Learns who leads these topics' partitions now.
    pub(super) async fn learn(&mut self, topics: &[&str], until: Instant) -> Result<(), Trouble> {
        let node = self.any().await?;
        let ClusterMetadata { brokers, topics } =
            self.call(node, &Metadata { topics }, until).await?;
        let mut addresses = BTreeMap::new();
        for (id, host, port) in brokers {
            addresses.insert(id, address(&host, port));
        }
        // A broker that is somewhere else now is reached there.
        self.connections
            .retain(|id, connection| match addresses.get(id) {
                Some(address) => address == connection.peer(),
                None => *id == FIRST,
            });
        self.addresses = addresses;
        self.adopt_first();
        for topic in topics {
            let known = match Code::of(topic.error) {
                Some(code) => Err(code),
                None => {
                    let mut leaders = vec![None; topic.partitions.len()];
                    for (partition, _, leader) in topic.partitions {
                        let index = usize::try_from(partition).unwrap_or(usize::MAX);
                        if let Some(place) = leaders.get_mut(index) {
                            *place = (leader >= 0).then_some(leader);
                        }
                    }
                    Ok(leaders)
                }
            };
            self.topics.insert(topic.name, known);
        }
        Ok(())
    }

    /// The first connection was made to an address; now it is known whose that is.
    fn adopt_first(&mut self) {
        let Some(first) = self.connections.remove(&FIRST) else {
            return;
        };
        let owner = self
            .addresses
            .iter()
            .find(|(_, address)| *address == first.peer());
        if let Some((id, _)) = owner {
            self.connections.entry(*id).or_insert(first);
        }
    }

    /// Who leads a partition, as far as is known.
    pub(super) fn leader(&self, topic: &str, partition: i32) -> Leader {
        match self.topics.get(topic) {
            None => Leader::Unknown,
            Some(Err(code)) if code.0 == 3 => Leader::NoTopic,
            Some(Err(code)) => match code.kind() {
                Kind::Topic | Kind::Configuration => Leader::Refused(*code),
                _ => Leader::None,
            },
            Some(Ok(leaders)) => {
                let index = usize::try_from(partition).unwrap_or(usize::MAX);
                match leaders.get(index) {
                    None => Leader::NoPartition,
                    Some(None) => Leader::None,
                    Some(Some(id)) => Leader::Broker(*id),
                }
            }
        }
    }

    /// Forgets who leads what: somebody else may by now.
    pub(super) fn forget_leaders(&mut self) {
        self.topics.clear();
    }

    /// Forgets who coordinates.
    pub(super) fn forget_coordinator(&mut self) {
        self.coordinator = None;
    }

    /// Makes sure that this broker is connected.
    pub(super) async fn connect(&mut self, node: i32) -> Result<(), Trouble> {
        if self.is_connected(node).await {
            return Ok(());
        }
        let Some(address) = self.addresses.get(&node) else {
            return Err(Trouble::Passing(format!("broker {node} is not known")));
        };
        let connection = Connection::open(address, &self.settings).await?;
        self.connections.insert(node, connection);
        Ok(())
    }

    /// The connected coordinator, looked up if it is not known.
    pub(super) async fn coordinator(&mut self, until: Instant) -> Result<i32, Trouble> {
        if let Some(node) = self.coordinator
            && self.is_connected(node).await
        {
            return Ok(node);
        }
        let id = self.transactional_id.clone();
        let transactional_id = &id;
        let found = self
            .ask(&FindCoordinator { transactional_id }, until)
            .await?;
        if let Some(code) = Code::of(found.error) {
            let doing = "looking for the transactions' coordinator";
            let need = format!("WRITE on transactional id {id}");
            return Err(Trouble::of(code, doing, &need));
        }
        self.addresses
            .insert(found.node, address(&found.host, found.port));
        self.adopt_first();
        self.connect(found.node).await?;
        self.coordinator = Some(found.node);
        Ok(found.node)
    }

    /// Asks the coordinator.
    pub(super) async fn ask_coordinator<R: Request>(
        &mut self,
        request: &R,
        until: Instant,
    ) -> Result<R::Answer, Trouble> {
        let node = self.coordinator(until).await?;
        let answer = self.call(node, request, until).await;
        if answer.is_err() {
            self.forget_coordinator();
        }
        answer
    }

    /// The connection to the coordinator as it stands, for what must not be asked twice.
    pub(super) fn coordinator_connection(&mut self) -> Option<&mut Connection> {
        self.connections.get_mut(&self.coordinator?)
    }

    /// The connection to a broker as it stands.
    pub(super) fn connection(&mut self, node: i32) -> Option<&mut Connection> {
        self.connections.get_mut(&node)
    }

    /// Drops every connection: one of them failed in a transaction.
    pub(super) fn disconnect(&mut self) {
        self.connections.clear();
    }
}

fn address(host: &str, port: i32) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Why transactions V2 can't be used with such a broker.
fn lacks(abilities: &Abilities) -> Option<String> {
    if let Some(code) = Code::of(abilities.error) {
        return Some(format!("the broker is too old: {code}"));
    }
    if abilities.transaction_version < 2 {
        return Some(format!(
            "the cluster's feature transaction.version is {}, not 2",
            abilities.transaction_version
        ));
    }
    NEEDED.iter().find_map(|(name, key, version)| {
        let fits = abilities
            .versions
            .iter()
            .any(|(k, min, max)| k == key && (min..=max).contains(&version));
        (!fits).then(|| format!("the broker has no {name} request of version {version}"))
    })
}
