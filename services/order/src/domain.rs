//! What an order is. Pure.

use clap::ValueEnum;
use contracts::order::Created;
use contracts::{choreography, pipeline};
use onceward::{CorrelationId, Event, Micros, RawMessage};
use onceward_saga::SagaId;
use serde::{Serialize, Serializer};
use skeleton::{ApiError, Body, Money};
use utoipa::ToSchema;
use uuid::Uuid;

/// Most pieces of one order.
const MAX_QUANTITY: i64 = 10_000;
/// Longest user or product id, in characters.
const MAX_ID_CHARS: usize = 100;

/// An order as a customer asks for it.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
pub struct NewOrder {
    /// Who orders; not blank.
    #[schema(min_length = 1, max_length = 100, example = "user_123")]
    pub user_id: String,
    /// What: `product_1` to `product_5`.
    #[schema(min_length = 1, max_length = 100, example = "product_1")]
    pub product_id: String,
    /// How many. A whole number, written without a point.
    #[schema(minimum = 1, maximum = 10_000, example = 2)]
    pub quantity: i64,
    /// The price of all of it: at most two decimals, no exponent.
    #[schema(value_type = f64, format = "decimal", minimum = 0.01, maximum = 1_000_000_000.0, example = 199.99)]
    pub amount: Money,
    /// How its services work together; the shop's default unless said.
    #[schema(example = "choreography")]
    pub saga: Option<SagaStyle>,
    /// Who reacts to whom if nobody commands; the shop's default unless said. Without a coordinator only.
    #[schema(example = "pipeline")]
    pub choreography: Option<Choreographed>,
}

/// How the services of an order work together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema, ValueEnum)]
#[schema(
    description = "`orchestration`: the saga orchestrator commands each; `choreography`: each reacts to the others"
)]
#[serde(rename_all = "lowercase")]
pub enum SagaStyle {
    /// The saga orchestrator commands each.
    Orchestration,
    /// Each reacts to what the others say.
    Choreography,
}

impl SagaStyle {
    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Orchestration => "orchestration",
            Self::Choreography => "choreography",
        }
    }

    /// Reads what [`Self::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let mut all = Self::value_variants().iter().copied();
        all.find(|style| style.as_str() == text)
    }
}

/// Who reacts to whom in an order without a coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema, ValueEnum)]
#[schema(
    description = "`payment-first`: payment, then stock; `pipeline`: payment, stock, shipping, delivery"
)]
#[serde(rename_all = "kebab-case")]
pub enum Choreographed {
    /// Payment, then stock; nothing is delivered.
    PaymentFirst,
    /// Payment, stock, shipping, delivery.
    Pipeline,
}

impl Choreographed {
    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PaymentFirst => "payment-first",
            Self::Pipeline => "pipeline",
        }
    }

    /// Reads what [`Self::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let mut all = Self::value_variants().iter().copied();
        all.find(|flow| flow.as_str() == text)
    }

    /// The saga id of such an order's last word.
    pub(crate) fn saga_id(self, order_id: Uuid) -> SagaId {
        let process = match self {
            Self::PaymentFirst => choreography::PROCESS,
            Self::Pipeline => pipeline::PROCESS,
        };
        SagaId::derived(process, &order_id.to_string())
    }
}

/// How the services of one order work together; it stays so to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Commanded by the saga orchestrator.
    Orchestrated,
    /// Each in reaction to the others.
    Choreographed(Choreographed),
}

impl Way {
    /// Its style.
    pub fn style(self) -> SagaStyle {
        match self {
            Self::Orchestrated => SagaStyle::Orchestration,
            Self::Choreographed(_) => SagaStyle::Choreography,
        }
    }

    /// Who reacts to whom, if nobody commands.
    pub fn choreographed(self) -> Option<Choreographed> {
        match self {
            Self::Orchestrated => None,
            Self::Choreographed(flow) => Some(flow),
        }
    }

    /// Type of the message in which such an order says that it was taken.
    pub(crate) fn created_type(self) -> &'static str {
        match self {
            Self::Orchestrated => Created::TYPE,
            Self::Choreographed(Choreographed::PaymentFirst) => choreography::OrderCreated::TYPE,
            Self::Choreographed(Choreographed::Pipeline) => pipeline::OrderCreated::TYPE,
        }
    }
}

impl NewOrder {
    /// Reads `{"user_id":"user_123","product_id":"product_1","quantity":2,"amount":199.99}`.
    ///
    /// # Errors
    /// A problem that names every field at fault.
    pub fn read(body: &Body) -> Result<Self, ApiError> {
        let mut fields = body.fields()?;
        let user_id = fields.text("user_id", MAX_ID_CHARS);
        let product_id = fields.text("product_id", MAX_ID_CHARS);
        let quantity = fields.integer("quantity", 1..=MAX_QUANTITY);
        let amount = fields.money("amount");
        let saga = fields.optional_text("saga", MAX_ID_CHARS).and_then(|text| {
            let style = SagaStyle::parse(&text);
            if style.is_none() {
                fields.refuse("saga", "must be \"orchestration\" or \"choreography\"");
            }
            style
        });
        let named = fields.optional_text("choreography", MAX_ID_CHARS);
        let choreography = named.and_then(|text| {
            let flow = Choreographed::parse(&text);
            if flow.is_none() {
                fields.refuse("choreography", "must be \"payment-first\" or \"pipeline\"");
            } else if saga == Some(SagaStyle::Orchestration) {
                fields.refuse("choreography", "needs \"saga\": \"choreography\"");
            }
            flow
        });
        let all = user_id.zip(product_id).zip(quantity).zip(amount);
        fields.finish(all.map(|(((user_id, product_id), quantity), amount)| Self {
            user_id,
            product_id,
            quantity,
            amount,
            saga,
            choreography,
        }))
    }

    /// How its services are to work together: as it says, or else as these defaults do.
    pub fn way(&self, style: SagaStyle, flow: Choreographed) -> Way {
        let said = self.choreography.map(|_| SagaStyle::Choreography);
        match self.saga.or(said).unwrap_or(style) {
            SagaStyle::Orchestration => Way::Orchestrated,
            SagaStyle::Choreography => Way::Choreographed(self.choreography.unwrap_or(flow)),
        }
    }

    /// The order that it is once it is taken.
    pub(crate) fn taken(
        self,
        order_id: Uuid,
        way: Way,
        correlation_id: CorrelationId,
        now: Micros,
    ) -> Order {
        Order {
            order_id,
            status: OrderStatus::Pending,
            reason: None,
            saga: way.style(),
            choreography: way.choreographed(),
            user_id: self.user_id,
            product_id: self.product_id,
            quantity: self.quantity,
            amount: self.amount,
            correlation_id,
            created_at: now,
            updated_at: now,
            steps: None,
        }
    }
}

/// How far an order has come; drawn in the crate's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(
    description = "`pending` → `completed`; or `cancelling`, then `failed` once all is undone"
)]
#[serde(rename_all = "lowercase")]
pub enum OrderStatus {
    /// Taken; its steps are under way.
    Pending,
    /// Given up; what was done is being undone.
    Cancelling,
    /// Given up, and everything is undone.
    Failed,
    /// Every step is done.
    Completed,
}

impl OrderStatus {
    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Cancelling => "cancelling",
            Self::Failed => "failed",
            Self::Completed => "completed",
        }
    }

    /// Whether nothing more will become of it.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Failed | Self::Completed)
    }

    /// Reads what [`Self::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        [
            Self::Pending,
            Self::Cancelling,
            Self::Failed,
            Self::Completed,
        ]
        .into_iter()
        .find(|status| status.as_str() == text)
    }
}

/// An order as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Order {
    /// Its id, UUID v7.
    pub order_id: Uuid,
    /// How far it has come.
    pub status: OrderStatus,
    /// Why it is cancelling or failed.
    #[schema(required, example = json!(null))]
    pub reason: Option<String>,
    /// How its services work together.
    pub saga: SagaStyle,
    /// Who reacts to whom if nobody commands.
    #[schema(required)]
    pub choreography: Option<Choreographed>,
    /// Who ordered.
    pub user_id: String,
    /// What.
    pub product_id: String,
    /// How many.
    pub quantity: i64,
    /// The price of all of it.
    pub amount: Money,
    /// The story its messages belong to.
    #[schema(value_type = Uuid)]
    pub correlation_id: CorrelationId,
    /// When it was taken.
    #[schema(value_type = String, format = DateTime)]
    #[serde(serialize_with = "rfc3339")]
    pub created_at: Micros,
    /// When its status last changed.
    #[schema(value_type = String, format = DateTime)]
    #[serde(serialize_with = "rfc3339")]
    pub updated_at: Micros,
    /// What has been said about it, oldest first; not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<Step>, required = false)]
    pub steps: Option<Vec<Step>>,
}

impl Order {
    /// How its services work together.
    pub(crate) fn way(&self) -> Way {
        self.choreography
            .map_or(Way::Orchestrated, Way::Choreographed)
    }

    /// The message in which it says that it was taken.
    pub(crate) fn created(&self) -> Result<RawMessage, serde_json::Error> {
        let (order_id, quantity) = (self.order_id, self.quantity);
        let (user_id, product_id) = (self.user_id.clone(), self.product_id.clone());
        let amount_minor = self.amount.minor();
        match self.way() {
            Way::Orchestrated => RawMessage::of(&Created {
                order_id,
                user_id,
                product_id,
                quantity,
                amount_minor,
            }),
            Way::Choreographed(Choreographed::PaymentFirst) => {
                RawMessage::of(&choreography::OrderCreated {
                    order_id,
                    user_id,
                    product_id,
                    quantity,
                    amount_minor,
                })
            }
            Way::Choreographed(Choreographed::Pipeline) => {
                RawMessage::of(&pipeline::OrderCreated::of(
                    order_id,
                    &user_id,
                    self.created_at,
                    product_id,
                    quantity,
                    amount_minor,
                ))
            }
        }
    }
}

/// Something that was said about an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Step {
    /// The topic it was said on: `inventory.reserve`, `payment-processed`.
    #[schema(example = "inventory.reserve")]
    pub step: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    #[serde(serialize_with = "rfc3339")]
    pub at: Micros,
}

/// A message about an order.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct OrderEvent {
    /// Its id; like `type`, `source` and `payload` `null` for one that an older version noted.
    #[schema(required)]
    pub message_id: Option<Uuid>,
    /// Its versioned type.
    #[serde(rename = "type")]
    #[schema(required, example = "payment.completed.v1")]
    pub message_type: Option<String>,
    /// The topic it was said on.
    #[schema(example = "payment.completed")]
    pub topic: String,
    /// Who said it: the name of the source, most often the service's.
    #[schema(required, example = "payment")]
    pub source: Option<String>,
    /// When it was said.
    #[schema(value_type = String, format = DateTime)]
    #[serde(serialize_with = "rfc3339")]
    pub at: Micros,
    /// What it said; its fields depend on `type`.
    #[schema(required, value_type = Option<Object>)]
    pub payload: Option<serde_json::Value>,
}

/// The events of an order.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct OrderEvents {
    /// Oldest first.
    pub items: Vec<OrderEvent>,
}

fn rfc3339<S: Serializer>(at: &Micros, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&skeleton::iso_time(*at))
}
