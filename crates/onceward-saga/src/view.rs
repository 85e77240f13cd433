//! Where a choreographed process stands, for the one who began it.

use onceward::Event;

use crate::SagaStatus;

/// Says from the facts heard so far, whatever their order, where a process stands that nobody coordinates:
/// the same ends as a saga's.
///
/// ```text
/// running ──a failure is heard──▶ compensating ──all it needs undone is──▶ compensated
///    └──────its completion is───▶ completed
/// ```
/// The owner keeps which facts it has heard, and asks after each. An end is an end: once it was told, facts
/// that come later change nothing. Silence is a fact of the owner's own, said when its
/// [`Deadline`](crate::Deadline) has passed.
///
/// ```
/// # use onceward::Event;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize, Event)] #[event(type = "shipped.v1", id = 0)] struct Shipped(u64);
/// # #[derive(Serialize, Deserialize, Event)] #[event(type = "unpaid.v1", id = 0)] struct Unpaid(u64);
/// # #[derive(Serialize, Deserialize, Event)] #[event(type = "lost.v1", id = 0)] struct Lost(u64);
/// # #[derive(Serialize, Deserialize, Event)] #[event(type = "paid_back.v1", id = 0)] struct PaidBack(u64);
/// use onceward_saga::{ProcessView, SagaStatus};
///
/// let view = ProcessView::completed_by::<Shipped>()
///     .failed_by::<Unpaid>(&[])
///     .failed_by::<Lost>(&[PaidBack::TYPE]);
///
/// assert_eq!(view.status(|_| false), SagaStatus::Running);
/// assert_eq!(view.status(|heard| heard == Unpaid::TYPE), SagaStatus::Compensated);
/// assert_eq!(view.status(|heard| heard == Lost::TYPE), SagaStatus::Compensating);
/// ```
#[derive(Debug, Clone)]
pub struct ProcessView {
    completed_by: &'static str,
    /// What fails it, and what must be heard until it is undone.
    failed_by: Vec<(&'static str, Vec<&'static str>)>,
}

impl ProcessView {
    /// A process that is done when this fact is heard.
    #[must_use]
    pub fn completed_by<E: Event>() -> Self {
        Self {
            completed_by: E::TYPE,
            failed_by: Vec::new(),
        }
    }

    /// The process fails by this fact, and is undone once all facts of the types `undone_by` are heard
    /// ([`Event::TYPE`]).
    #[must_use]
    pub fn failed_by<E: Event>(mut self, undone_by: &[&'static str]) -> Self {
        self.failed_by.push((E::TYPE, undone_by.to_vec()));
        self
    }

    /// Where it stands, if `heard` says of a message type whether such a fact was heard. A failure
    /// outweighs the completion, because those who hear both undo it; of several all must be undone.
    pub fn status(&self, heard: impl Fn(&str) -> bool) -> SagaStatus {
        let mut failures = self.failed_by.iter().filter(|(fact, _)| heard(fact));
        let failed = failures.clone().next().is_some();
        let undone = failures.all(|(_, undone_by)| undone_by.iter().all(|fact| heard(fact)));
        match (failed, undone) {
            (true, true) => SagaStatus::Compensated,
            (true, false) => SagaStatus::Compensating,
            (false, _) if heard(self.completed_by) => SagaStatus::Completed,
            (false, _) => SagaStatus::Running,
        }
    }
}
