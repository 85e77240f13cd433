//! What the mails say.

use contracts::notification::Notice;
use uuid::Uuid;

/// Subject and text of a mail.
pub(crate) fn write(notice: Notice, order_id: Uuid, reason: Option<&str>) -> (String, String) {
    let reason = reason.unwrap_or("no reason was given");
    let (subject, text) = match notice {
        Notice::OrderCreated => (
            "We have your order",
            "we have it; you hear from us.".to_owned(),
        ),
        Notice::OrderPaid => ("Your order is paid", "it is paid, thank you.".to_owned()),
        Notice::PaymentFailed => (
            "Your payment failed",
            format!("it could not be paid ({reason}). Please try another way to pay."),
        ),
        Notice::PaymentRefunded => (
            "You pay nothing",
            "you have paid nothing for it, or have it back.".to_owned(),
        ),
        Notice::InventoryReserved => (
            "Your pieces are set aside",
            "all pieces are there and set aside for you.".to_owned(),
        ),
        Notice::InventoryFailed => (
            "Your pieces are not there",
            format!("it can't be filled ({reason})."),
        ),
        Notice::InventoryReleased => (
            "Nothing is set aside any more",
            "no pieces are set aside for it any more.".to_owned(),
        ),
        Notice::OrderShipped => ("Your order is on its way", "it is on its way.".to_owned()),
        Notice::ShipmentReturned => (
            "Your order comes back to us",
            "it is not on its way to you any more.".to_owned(),
        ),
        Notice::DeliveryScheduled => (
            "Your delivery is planned",
            "its delivery is planned.".to_owned(),
        ),
        Notice::OrderDelivered => ("Your order is there", "it was delivered.".to_owned()),
        Notice::DeliveryFailed => (
            "Your order could not be delivered",
            format!("it could not be delivered ({reason})."),
        ),
        Notice::DeliveryCancelled => (
            "Your delivery was called off",
            "it will not be delivered.".to_owned(),
        ),
        Notice::OrderTimedOut => (
            "Your order took too long",
            "it took too long, and is being given up.".to_owned(),
        ),
        Notice::OrderCompleted => (
            "Your order is complete",
            "everything is done: paid, and on its way to you.".to_owned(),
        ),
        Notice::OrderCancelled => (
            "Your order was cancelled",
            format!("it was cancelled ({reason}). You have paid nothing for it."),
        ),
    };
    let text = format!("Good day,\n\nabout your order {order_id}:\n{text}\n\nThe shop\n");
    (subject.to_owned(), text)
}
