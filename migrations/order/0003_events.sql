-- The message in which an order began, and its trace: what the deadline says goes on in it.
alter table orders add column message_id uuid;
alter table orders add column traceparent text;
-- The message of a step; null in rows of before.
alter table order_step add column message_id uuid;
alter table order_step add column message_type text;
alter table order_step add column source text;
alter table order_step add column payload text;
