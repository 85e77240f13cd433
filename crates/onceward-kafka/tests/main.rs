//! The publisher, the subscriber, progress and topics, on a real Kafka.

#[cfg(test)]
mod consumer;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod native;
#[cfg(test)]
mod progress;
#[cfg(test)]
mod rights;
#[cfg(test)]
mod security;
#[cfg(test)]
mod support;
#[cfg(test)]
mod topics;
#[cfg(test)]
mod transactions;
