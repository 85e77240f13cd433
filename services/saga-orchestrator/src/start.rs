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
    async fn handle_batch(
        &self,
        tx: &mut Tx<'static, B>,
        messages: Vec<(MessageContext, order::Created)>,
    ) -> Result<(), HandlerError> {
        let subjects = messages.iter().map(|(_, order)| order.order_id.to_string());
        let subjects: Vec<_> = subjects.collect();
        let sagas = messages.iter().zip(&subjects);
        let sagas = sagas.map(|((context, order), subject)| (context, subject.as_str(), order));
        let sagas: Vec<_> = sagas.collect();
        self.sagas.start_all(tx, &self.definition, &sagas).await?;
        Ok(())
    }
}
