-- One text for both databases. Times are microseconds, UTC; money in minor units.
create table payment (
    order_id     uuid   primary key,
    user_id      text   not null,
    amount_minor bigint not null check (amount_minor >= 0),
    status       text   not null check (status in ('completed', 'failed', 'refunded')),
    reason       text,
    created_at   bigint not null,
    updated_at   bigint not null
);
create index payment_status on payment (status);
