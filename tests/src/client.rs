//! What a person does with curl.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::Result;

/// Speaks HTTP to the services.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    urls: BTreeMap<&'static str, String>,
}

/// A body for `POST /orders`.
#[derive(Debug, Clone)]
pub struct Order {
    /// Who orders.
    pub user_id: String,
    /// What.
    pub product_id: String,
    /// How many.
    pub quantity: i64,
    /// How its services work together; nothing is said of it otherwise.
    pub saga: Option<&'static str>,
    /// Who reacts to whom; nothing is said of it otherwise.
    pub choreography: Option<&'static str>,
}

impl Default for Order {
    fn default() -> Self {
        Self {
            user_id: "user_123".into(),
            product_id: "product_1".into(),
            quantity: 2,
            saga: None,
            choreography: None,
        }
    }
}

impl Client {
    pub(crate) fn new(urls: BTreeMap<&'static str, String>) -> Self {
        Self {
            http: reqwest::Client::new(),
            urls,
        }
    }

    /// Posts an order; with a key it may be posted again. Answers status and body.
    pub async fn post_order(&self, order: &Order, key: Option<&str>) -> Result<(u16, Value)> {
        let header = key.map(|key| ("Idempotency-Key", key));
        self.post_order_with(order, header.as_slice()).await
    }

    /// [`Self::post_order`] with headers.
    pub async fn post_order_with(
        &self,
        order: &Order,
        headers: &[(&str, &str)],
    ) -> Result<(u16, Value)> {
        let mut body = json!({
            "user_id": order.user_id, "product_id": order.product_id,
            "quantity": order.quantity, "amount": 199.99,
        });
        if let Some(saga) = order.saga {
            body["saga"] = json!(saga);
        }
        if let Some(choreography) = order.choreography {
            body["choreography"] = json!(choreography);
        }
        let mut request = self
            .http
            .post(format!("{}/orders", self.urls["order"]))
            .json(&body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        Ok((status, answer.json().await.unwrap_or(Value::Null)))
    }

    /// Posts an order that must be accepted and answers its id.
    pub async fn order(&self, order: &Order) -> Result<String> {
        let (status, body) = self.post_order(order, None).await?;
        ensure!(
            status == 201 && body["status"] == "pending",
            "POST /orders: {status} {body}"
        );
        Ok(body["order_id"].as_str().context("order_id")?.to_owned())
    }

    /// Sets a product's stock as an operator with this token, and answers the status.
    pub async fn set_stock(&self, product: &str, stock: u32, token: &str) -> Result<u16> {
        let url = format!("{}/inventory/{product}", self.urls["inventory"]);
        let request = self.http.put(url).bearer_auth(token);
        let answer = request.json(&json!({ "stock": stock })).send().await?;
        Ok(answer.status().as_u16())
    }

    /// Posts any text and answers the status.
    pub async fn post_raw(&self, service: &str, path: &str, body: String) -> Result<u16> {
        let url = format!("{}{path}", self.urls[service]);
        let request = self
            .http
            .post(url)
            .header("content-type", "application/json");
        Ok(request.body(body).send().await?.status().as_u16())
    }

    /// GET of one process, as text.
    pub async fn text(&self, process: &str, path: &str) -> Result<String> {
        let url = format!("{}{path}", self.urls[process]);
        Ok(self.http.get(&url).send().await?.text().await?)
    }

    /// The first of a service's server-sent events: the JSON of its data.
    pub async fn first_event(&self, service: &str, path: &str) -> Result<Value> {
        let url = format!("{}{path}", self.urls[service]);
        let mut answer = self.http.get(&url).send().await?;
        let mut text = String::new();
        let reading = async {
            while let Some(chunk) = answer.chunk().await? {
                text.push_str(&String::from_utf8_lossy(&chunk));
                let data = text.lines().find_map(|line| line.strip_prefix("data: "));
                if let (Some(data), true) = (data, text.contains("\n\n")) {
                    return Ok(serde_json::from_str(data)?);
                }
            }
            bail!("{url} ended: {text}")
        };
        tokio::time::timeout(Duration::from_secs(10), reading).await?
    }

    /// GET of one service.
    pub async fn get(&self, service: &str, path: &str) -> Result<Value> {
        let url = format!("{}{path}", self.urls[service]);
        let answer = self.http.get(&url).send().await?;
        ensure!(answer.status().is_success(), "{url}: {}", answer.status());
        Ok(answer.json().await?)
    }

    /// Waits until an order has this status and answers it.
    pub async fn wait_for(&self, order_id: &str, status: &str, at_most: Duration) -> Result<Value> {
        let deadline = Instant::now() + at_most;
        loop {
            // The service may be down for the moment: that is what these tests are about.
            let found = self
                .get("order", &format!("/orders/{order_id}"))
                .await
                .unwrap_or(Value::Null);
            if found["status"] == status {
                return Ok(found);
            }
            if Instant::now() > deadline {
                bail!("order {order_id} is not {status} after {at_most:?}: {found:#}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until an order has ended and answers it.
    pub async fn wait_for_end(&self, order_id: &str, at_most: Duration) -> Result<Value> {
        let deadline = Instant::now() + at_most;
        loop {
            let found = self
                .get("order", &format!("/orders/{order_id}"))
                .await
                .unwrap_or(Value::Null);
            if found["status"] == "completed" || found["status"] == "failed" {
                return Ok(found);
            }
            if Instant::now() > deadline {
                bail!("order {order_id} has not ended after {at_most:?}: {found:#}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
