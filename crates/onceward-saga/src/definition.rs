//! A saga's definition: code, named and versioned.
//!
//! ```text
//! SagaDefinition::of::<OrderCreated>("place_order", 1)
//!     .step("payment", |step| {
//!         step.command(|saga, at| Charge { saga: at, cents: saga.data.cents })
//!             .done_by::<Charged>()
//!             .refused_by::<Declined>()
//!             .compensate_with(|saga, at| Refund { saga: at, cents: saga.data.cents })
//!             .confirmed_by::<Refunded>()
//!     })
//!     .on_completed(|saga| OrderCompleted { … })
//!     .on_compensated(|saga| OrderCancelled { reason: saga.reason().to_owned(), … })
//!     .build()?
//! ```
//!
//! Steps are done one after the other. Those of a **group** ([`SagaBuilder::together`]) are all commanded at once, and
//! what comes behind them waits for the last of them (the join); if one is refused, or silent, all of them are undone.
//! A step can depend on what was said before it ([`StepBuilder::when`]): the choice.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use onceward::{Event, RawMessage};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Refusal, SagaId, SagaMessage, SagaState, StepRef};

/// How long a step may be silent unless it, or its saga, says otherwise.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(60);
/// How long after a refusal behind the pivot the command goes out again.
pub const DEFAULT_RETRY_DELAY: Duration = Duration::from_secs(5);

type Build =
    Arc<dyn Fn(&SagaState, StepRef) -> Result<RawMessage, serde_json::Error> + Send + Sync>;
type BuildEnd = Arc<dyn Fn(&SagaState) -> Result<RawMessage, serde_json::Error> + Send + Sync>;
type Condition = Arc<dyn Fn(&SagaState) -> Result<bool, serde_json::Error> + Send + Sync>;
type Reason = Arc<dyn Fn(&Value) -> String + Send + Sync>;

/// What the builders of messages may look at.
#[derive(Debug)]
pub struct SagaView<'s, D> {
    /// The data the saga was started with.
    pub data: D,
    state: &'s SagaState,
}

impl<D> SagaView<'_, D> {
    /// Which saga.
    pub fn saga_id(&self) -> SagaId {
        self.state.saga_id
    }
    /// Why it is compensated; empty while it runs.
    pub fn reason(&self) -> &str {
        self.state.reason.as_deref().unwrap_or_default()
    }
    /// The reply that ended an earlier step well, if it was an `E`.
    pub fn reply<E: Event>(&self, step: &str) -> Option<E> {
        let (message_type, reply) = self.state.step(step, 0)?.reply.as_ref()?;
        (message_type == E::TYPE)
            .then(|| serde_json::from_value(reply.clone()).ok())
            .flatten()
    }
}

/// What a reply means to its step.
#[derive(Clone)]
pub(crate) enum Meaning {
    Done,
    Refused(Reason),
    Confirmed,
    CancelRefused(Reason),
}

/// One step of a definition.
#[derive(Clone)]
pub(crate) struct Step {
    pub(crate) name: String,
    /// Steps of the same stage are commanded at the same time.
    pub(crate) stage: usize,
    pub(crate) condition: Option<Condition>,
    pub(crate) command: Option<Build>,
    pub(crate) replies: BTreeMap<&'static str, Meaning>,
    pub(crate) compensation: Option<Build>,
    pub(crate) nothing_to_undo: bool,
    pub(crate) deadline: Option<Duration>,
    pub(crate) attempts: i32,
    pub(crate) retry_delay: Duration,
    pub(crate) pivot: bool,
}

/// A saga's steps and ends. Cheap to clone.
#[derive(Clone)]
pub struct SagaDefinition {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    version: i32,
    deadline: Duration,
    steps: Vec<Step>,
    on_completed: Option<BuildEnd>,
    on_compensated: Option<BuildEnd>,
}

impl std::fmt::Debug for SagaDefinition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SagaDefinition")
            .field("name", &self.inner.name)
            .field("version", &self.inner.version)
            .field("steps", &self.step_names().collect::<Vec<_>>())
            .finish()
    }
}

impl SagaDefinition {
    /// Begins a definition whose messages are made of a `D`. A changed meaning is a new version;
    /// keep the old one registered until its last saga has ended.
    pub fn of<D: Serialize + DeserializeOwned>(
        name: impl Into<String>,
        version: i32,
    ) -> SagaBuilder<D> {
        SagaBuilder {
            inner: Inner {
                name: name.into(),
                version,
                deadline: DEFAULT_DEADLINE,
                steps: Vec::new(),
                on_completed: None,
                on_compensated: None,
            },
            data: PhantomData,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }
    /// Its version.
    pub fn version(&self) -> i32 {
        self.inner.version
    }
    /// Its steps' names, in order.
    pub fn step_names(&self) -> impl Iterator<Item = &str> {
        self.inner.steps.iter().map(|step| step.name.as_str())
    }
    /// Position of the pivot; the number of steps if there is none.
    pub fn pivot_index(&self) -> usize {
        let pivot = self.inner.steps.iter().position(|step| step.pivot);
        pivot.unwrap_or(self.inner.steps.len())
    }
    /// The id of its saga about `subject`: see [`SagaId::derived`].
    pub fn saga_id(&self, subject: &str) -> SagaId {
        SagaId::derived(&self.inner.name, subject)
    }

    pub(crate) fn steps(&self) -> &[Step] {
        &self.inner.steps
    }
    pub(crate) fn last_stage(&self) -> usize {
        self.inner.steps.last().map_or(0, |last| last.stage)
    }
    /// The steps of a stage, with their positions.
    pub(crate) fn stage(&self, stage: usize) -> impl Iterator<Item = (usize, &Step)> {
        let steps = self.inner.steps.iter().enumerate();
        steps.filter(move |(_, step)| step.stage == stage)
    }
    pub(crate) fn position(&self, step: &str) -> Option<usize> {
        self.inner.steps.iter().position(|s| s.name == step)
    }
    pub(crate) fn deadline_of(&self, step: &Step) -> Duration {
        step.deadline.unwrap_or(self.inner.deadline)
    }
    pub(crate) fn on_completed(&self) -> Option<&BuildEnd> {
        self.inner.on_completed.as_ref()
    }
    pub(crate) fn on_compensated(&self) -> Option<&BuildEnd> {
        self.inner.on_compensated.as_ref()
    }
}

/// Builds a [`SagaDefinition`].
pub struct SagaBuilder<D> {
    inner: Inner,
    data: PhantomData<fn(D)>,
}

impl<D> std::fmt::Debug for SagaBuilder<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SagaBuilder({})", self.inner.name)
    }
}

impl<D: DeserializeOwned + 'static> SagaBuilder<D> {
    /// How long each step may be silent, unless it says otherwise.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.inner.deadline = deadline;
        self
    }

    /// Adds a step, done after the ones before it.
    #[must_use]
    pub fn step(
        self,
        name: impl Into<String>,
        build: impl FnOnce(StepBuilder<D>) -> StepBuilder<D>,
    ) -> Self {
        self.together(|group| group.step(name, build))
    }

    /// Adds steps that are done at the same time, after the ones before them. What comes next waits for all of them.
    ///
    /// ```text
    /// .together(|group| group
    ///     .step("customer", |step| step.command(…)…)
    ///     .step("stock", |step| step.command(…)…))
    /// ```
    #[must_use]
    pub fn together(mut self, build: impl FnOnce(GroupBuilder<D>) -> GroupBuilder<D>) -> Self {
        let group = GroupBuilder {
            steps: Vec::new(),
            stage: self.inner.steps.last().map_or(0, |last| last.stage + 1),
            data: PhantomData,
        };
        self.inner.steps.extend(build(group).steps);
        self
    }

    /// The event to send when every step is done.
    #[must_use]
    pub fn on_completed<E: Event>(
        mut self,
        build: impl Fn(&SagaView<'_, D>) -> E + Send + Sync + 'static,
    ) -> Self {
        self.inner.on_completed =
            Some(Arc::new(move |state| RawMessage::of(&build(&view(state)?))));
        self
    }

    /// The event to send when everything is confirmed undone.
    #[must_use]
    pub fn on_compensated<E: Event>(
        mut self,
        build: impl Fn(&SagaView<'_, D>) -> E + Send + Sync + 'static,
    ) -> Self {
        self.inner.on_compensated =
            Some(Arc::new(move |state| RawMessage::of(&build(&view(state)?))));
        self
    }

    /// Checks the definition.
    ///
    /// # Errors
    /// [`InvalidDefinition`] with every problem found.
    pub fn build(self) -> Result<SagaDefinition, InvalidDefinition> {
        let problems = problems_of(&self.inner);
        if problems.is_empty() {
            Ok(SagaDefinition {
                inner: Arc::new(self.inner),
            })
        } else {
            Err(InvalidDefinition {
                name: self.inner.name,
                problems,
            })
        }
    }
}

/// Builds the steps of a group: see [`SagaBuilder::together`].
pub struct GroupBuilder<D> {
    steps: Vec<Step>,
    stage: usize,
    data: PhantomData<fn(D)>,
}

impl<D> std::fmt::Debug for GroupBuilder<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.steps.iter().map(|step| &step.name);
        f.debug_list().entries(names).finish()
    }
}

impl<D: DeserializeOwned + 'static> GroupBuilder<D> {
    /// Adds a step to the group.
    #[must_use]
    pub fn step(
        mut self,
        name: impl Into<String>,
        build: impl FnOnce(StepBuilder<D>) -> StepBuilder<D>,
    ) -> Self {
        let fresh = StepBuilder {
            step: Step {
                name: name.into(),
                stage: self.stage,
                condition: None,
                command: None,
                replies: BTreeMap::new(),
                compensation: None,
                nothing_to_undo: false,
                deadline: None,
                attempts: 1,
                retry_delay: DEFAULT_RETRY_DELAY,
                pivot: false,
            },
            data: PhantomData,
        };
        self.steps.push(build(fresh).step);
        self
    }
}

/// Builds one step.
pub struct StepBuilder<D> {
    step: Step,
    data: PhantomData<fn(D)>,
}

impl<D> std::fmt::Debug for StepBuilder<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StepBuilder({})", self.step.name)
    }
}

impl<D: DeserializeOwned + 'static> StepBuilder<D> {
    /// The wish that is sent to the participant.
    #[must_use]
    pub fn command<E: SagaMessage>(
        mut self,
        build: impl Fn(&SagaView<'_, D>, StepRef) -> E + Send + Sync + 'static,
    ) -> Self {
        self.step.command = Some(Arc::new(move |state, at| {
            RawMessage::of(&build(&view(state)?, at))
        }));
        self
    }

    /// Whether the step is wanted at all, asked when its turn comes: by the saga's data, or by what was replied
    /// earlier ([`SagaView::reply`]). One that is not is left out, for good. Must give the same answer whenever it
    /// is asked.
    #[must_use]
    pub fn when(
        mut self,
        wanted: impl Fn(&SagaView<'_, D>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.step.condition = Some(Arc::new(move |state| Ok(wanted(&view(state)?))));
        self
    }

    /// The reply that says: done. There may be several; which one it was decides what [`when`](Self::when) sees.
    #[must_use]
    pub fn done_by<E: SagaMessage>(mut self) -> Self {
        self.step.replies.insert(E::TYPE, Meaning::Done);
        self
    }

    /// The reply that says: not done, nor will it be. Before the pivot the saga is undone, behind
    /// it the command is tried again.
    #[must_use]
    pub fn refused_by<E: Refusal>(mut self) -> Self {
        let meaning = Meaning::Refused(reason_of::<E>());
        self.step.replies.insert(E::TYPE, meaning);
        self
    }

    /// The wish "undo it if it happened, refuse it if it comes later". Sent to every step that is
    /// done or silent, to all of them at once.
    #[must_use]
    pub fn compensate_with<E: SagaMessage>(
        mut self,
        build: impl Fn(&SagaView<'_, D>, StepRef) -> E + Send + Sync + 'static,
    ) -> Self {
        self.step.compensation = Some(Arc::new(move |state, at| {
            RawMessage::of(&build(&view(state)?, at))
        }));
        self
    }

    /// The reply that confirms the compensation. Nothing else ends a step that is being undone.
    #[must_use]
    pub fn confirmed_by<E: SagaMessage>(mut self) -> Self {
        self.step.replies.insert(E::TYPE, Meaning::Confirmed);
        self
    }

    /// The reply that says the compensation failed for good: the saga is stuck.
    #[must_use]
    pub fn compensation_refused_by<E: Refusal>(mut self) -> Self {
        let meaning = Meaning::CancelRefused(reason_of::<E>());
        self.step.replies.insert(E::TYPE, meaning);
        self
    }

    /// The step changes nothing anywhere, so there is nothing to undo.
    #[must_use]
    pub fn nothing_to_undo(mut self) -> Self {
        self.step.nothing_to_undo = true;
        self
    }

    /// How long the participant may be silent.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.step.deadline = Some(deadline);
        self
    }

    /// How often the command is sent before silence counts, at least 1; each try has the whole
    /// deadline. Behind the pivot it is tried without end.
    #[must_use]
    pub fn attempts(mut self, attempts: i32) -> Self {
        self.step.attempts = attempts;
        self
    }

    /// How long after a refusal behind the pivot the command goes out again.
    #[must_use]
    pub fn retry_delay(mut self, delay: Duration) -> Self {
        self.step.retry_delay = delay;
        self
    }

    /// Once this step is done there is no way back: later steps are retried until they are done.
    #[must_use]
    pub fn pivot(mut self) -> Self {
        self.step.pivot = true;
        self
    }
}

/// A definition that can't work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("saga {name}: {}", problems.join("; "))]
pub struct InvalidDefinition {
    name: String,
    /// All of them.
    pub problems: Vec<String>,
}

fn problems_of(inner: &Inner) -> Vec<String> {
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    if inner.steps.is_empty() {
        problems.push("has no steps".to_owned());
    }
    if inner.steps.iter().filter(|s| s.pivot).count() > 1 {
        problems.push("has more than one pivot".to_owned());
    }
    let pivot = inner.steps.iter().position(|s| s.pivot);
    for (index, step) in inner.steps.iter().enumerate() {
        let mut say = |what: &str| problems.push(format!("step {:?} {what}", step.name));
        let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        // The name is part of timer names.
        if step.name.is_empty() || !step.name.bytes().all(fine) {
            say("must be named in a-z 0-9 - _");
        }
        if !seen.insert(&step.name) {
            say("is there twice");
        }
        if step.command.is_none() {
            say("has no command");
        }
        if step.attempts < 1 {
            say("must be tried at least once");
        }
        let has = |wanted: fn(&Meaning) -> bool| step.replies.values().any(wanted);
        if !has(|m| matches!(m, Meaning::Done)) {
            say("has no reply that says done");
        }
        let behind = pivot.is_some_and(|pivot| index > pivot);
        let compensated = step.compensation.is_some();
        if behind && (compensated || step.nothing_to_undo) {
            say("is behind the pivot and is never undone");
        }
        if !behind && !step.pivot && !compensated && !step.nothing_to_undo {
            say("has no compensation; say nothing_to_undo() if it changes nothing");
        }
        if compensated && step.nothing_to_undo {
            say("has a compensation and nothing to undo");
        }
        let alone = inner.steps.iter().filter(|s| s.stage == step.stage).count() == 1;
        if step.pivot && !alone {
            say("is the pivot and must be done alone");
        }
        if step.pivot && step.condition.is_some() {
            say("is the pivot and can't be left out");
        }
        if compensated != has(|m| matches!(m, Meaning::Confirmed)) {
            say("must have both a compensation and its confirmation, or neither");
        }
    }
    problems
}

fn view<D: DeserializeOwned>(state: &SagaState) -> Result<SagaView<'_, D>, serde_json::Error> {
    let data = serde_json::from_value(state.data.clone())?;
    Ok(SagaView { data, state })
}

fn reason_of<E: Refusal>() -> Reason {
    Arc::new(|payload| {
        serde_json::from_value::<E>(payload.clone())
            .map_or_else(|_| "refused".to_owned(), |e| e.reason().to_owned())
    })
}
