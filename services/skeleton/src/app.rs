//! What a service's routes and handlers work with.

use std::sync::Arc;

use onceward::{Backend, Clock, Db, IdGen, Outbox, SourceName};

use crate::{OperatorAccess, Readiness};

/// A service's database, outbox, clock and ids. Cheap to clone; the state of its router.
#[derive(Debug)]
pub struct App<B: Backend> {
    db: Db<B>,
    outbox: Outbox,
    readiness: Readiness,
    operators: OperatorAccess,
}

impl<B: Backend> Clone for App<B> {
    fn clone(&self) -> Self {
        Self {
            db: self.db.clone(),
            outbox: self.outbox.clone(),
            readiness: self.readiness.clone(),
            operators: self.operators.clone(),
        }
    }
}

impl<B: Backend> App<B> {
    /// The parts of the service whose source is `name`, on system clock and UUID v7 ids.
    pub fn new(db: Db<B>, name: SourceName) -> Self {
        Self::with_outbox(db, Outbox::new(name))
    }

    /// The same with an outbox of the caller's, which brings its clock and ids.
    pub fn with_outbox(db: Db<B>, outbox: Outbox) -> Self {
        Self {
            db,
            outbox,
            readiness: Readiness::default(),
            operators: OperatorAccess::default(),
        }
    }

    /// Lets these operators in, instead of those on this machine.
    #[must_use]
    pub fn with_operators(mut self, operators: OperatorAccess) -> Self {
        self.operators = operators;
        self
    }

    /// The database: `write` for units of work, `pool` for reads.
    pub fn db(&self) -> &Db<B> {
        &self.db
    }
    /// Where messages are appended.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }
    /// Where time comes from.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        self.outbox.clock()
    }
    /// Where ids come from.
    pub fn ids(&self) -> &Arc<dyn IdGen> {
        self.outbox.ids()
    }
    /// What `/readyz` tells besides the database.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }
    /// Who may use operator routes.
    pub fn operators(&self) -> &OperatorAccess {
        &self.operators
    }
}
