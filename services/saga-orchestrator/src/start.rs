//! `order.created` starts the saga of the order.

use contracts::order;
use onceward::consumer::{Handler, HandlerError};
use onceward::{MessageContext, Tx};
use onceward_saga::{SagaBackend, SagaDefinition, Sagas};

/// Starts the saga of an order. An order that is created twice has one saga.
#[derive(Debug, Clone)]
pub struct StartOnOrderCreated {
    sagas: Sagas,
    definition: SagaDefinition,
}

impl StartOnOrderCreated {
    /// Starts sagas of this definition.
    pub fn new(sagas: Sagas, definition: SagaDefinition) -> Self {
        Self { sagas, definition }
    }
}

impl<B: SagaBackend> Handler<B, order::Created> for StartOnOrderCreated {
    async fn handle(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        message: order::Created,
    ) -> Result<(), HandlerError> {
        let subject = message.order_id.to_string();
        self.sagas
            .start(tx, context, &self.definition, &subject, &message)
            .await?;
        Ok(())
    }
}
