-- One text for both databases. Times are microseconds, UTC.
create table shipment (
    order_id   uuid   primary key,
    user_id    text   not null,
    product_id text   not null,
    quantity   bigint not null,
    status     text   not null check (status in ('shipped', 'returned')),
    created_at bigint not null,
    updated_at bigint not null
);
create index shipment_status on shipment (status);
