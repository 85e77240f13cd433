-- One text for both databases. Times are microseconds, UTC.
create table delivery (
    order_id   uuid   primary key,
    user_id    text   not null,
    product_id text   not null,
    quantity   bigint not null,
    status     text   not null check (status in ('scheduled', 'failed', 'cancelled')),
    reason     text,
    created_at bigint not null,
    updated_at bigint not null
);
create index delivery_status on delivery (status);
