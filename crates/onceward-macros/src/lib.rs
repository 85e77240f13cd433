//! The derives of `onceward` and `onceward-saga`. Both export them; nobody names this crate.
#![deny(missing_docs)]

mod event;
mod saga_message;

use proc_macro::TokenStream;

/// Implements `onceward::Event`.
///
/// ```text
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(type = "order.placed.v1", id = order_id)]
/// struct OrderPlaced { order_id: Uuid, amount_minor: i64 }
/// ```
///
/// | `#[event(…)]` | what | left out |
/// |---|---|---|
/// | `type = "order.placed.v1"` | versioned name; without its version the topic | must be there |
/// | `id = order_id` | field that says which aggregate it is about | must be there |
/// | `aggregate = "order"` | kind of aggregate | the type up to its first dot |
/// | `key = customer_id` | field to keep in order by; `key = none` gives order up | the id |
/// | `kind = command` | `event`, `command` or `reply` | `event` |
#[proc_macro_derive(Event, attributes(event))]
pub fn event(input: TokenStream) -> TokenStream {
    let input = syn::parse_macro_input!(input as syn::DeriveInput);
    event::implement(&input)
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

/// Implements `onceward_saga::SagaMessage` for a struct with one field of type `StepRef`.
#[proc_macro_derive(SagaMessage)]
pub fn saga_message(input: TokenStream) -> TokenStream {
    let input = syn::parse_macro_input!(input as syn::DeriveInput);
    saga_message::implement(&input)
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
