//! What the mails say.

use uuid::Uuid;

/// Why a customer gets a mail. The name is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Template {
    OrderCompleted,
    OrderCancelled,
    PaymentFailed,
    DeliveryScheduled,
}

impl Template {
    const ALL: [Self; 4] = [
        Self::OrderCompleted,
        Self::OrderCancelled,
        Self::PaymentFailed,
        Self::DeliveryScheduled,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::OrderCompleted => "order_completed",
            Self::OrderCancelled => "order_cancelled",
            Self::PaymentFailed => "payment_failed",
            Self::DeliveryScheduled => "delivery_scheduled",
        }
    }

    pub(crate) fn called(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.as_str() == name)
    }

    /// 0 goes before 1: bad news is what a customer can still act on.
    pub(crate) fn priority(self) -> i64 {
        match self {
            Self::OrderCancelled | Self::PaymentFailed => 0,
            Self::OrderCompleted | Self::DeliveryScheduled => 1,
        }
    }

    /// Subject and text.
    pub(crate) fn write(self, order_id: Uuid, reason: Option<&str>) -> (String, String) {
        let reason = reason.unwrap_or("no reason was given");
        let (subject, text) = match self {
            Self::OrderCompleted => (
                "Your order is complete",
                "everything is done: paid, and on its way to you.".to_owned(),
            ),
            Self::OrderCancelled => (
                "Your order was cancelled",
                format!("it was cancelled ({reason}). You have paid nothing for it."),
            ),
            Self::PaymentFailed => (
                "Your payment failed",
                format!("it could not be paid ({reason}). Please try another way to pay."),
            ),
            Self::DeliveryScheduled => (
                "Your delivery is planned",
                "its delivery is planned.".to_owned(),
            ),
        };
        let text = format!("Good day,\n\nabout your order {order_id}:\n{text}\n\nThe shop\n");
        (subject.to_owned(), text)
    }
}
