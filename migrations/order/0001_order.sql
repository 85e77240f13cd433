-- What can be ordered. The order service's own copy of the catalogue.
create table product (
    product_id text primary key
);
insert into product (product_id)
values ('product_1'), ('product_2'), ('product_3'), ('product_4'), ('product_5');

-- Ids are UUID v7: their order is the order of making, which serves the list.
create table orders (
    order_id       uuid   primary key,
    user_id        text   not null,
    product_id     text   not null references product,
    quantity       bigint not null check (quantity > 0),
    amount_minor   bigint not null check (amount_minor > 0),
    status         text   not null check (status in ('pending', 'cancelling', 'failed', 'completed')),
    reason         text,                            -- why it is cancelling or failed
    correlation_id uuid   not null,
    created_at     bigint not null,                 -- microseconds, UTC
    updated_at     bigint not null
);

-- What has been said about an order, by topic; a message that is repeated counts once.
create table order_step (
    order_id uuid   not null references orders,
    topic    text   not null,
    at       bigint not null,                       -- when it was said, microseconds, UTC
    primary key (order_id, topic)
);
