-- One text for both databases. Times are microseconds, UTC; money in minor units.

-- Who may order, and how much of it at the same time. The check is the audit: no customer's open orders come to more
-- than the limit.
create table customer (
    customer_id    uuid   primary key,
    user_id        text   not null unique,
    name           text   not null,
    limit_minor    bigint not null check (limit_minor >= 0),
    reserved_minor bigint not null default 0 check (reserved_minor >= 0), -- by orders under way
    spent_minor    bigint not null default 0 check (spent_minor >= 0),    -- by completed orders
    created_at     bigint not null,
    updated_at     bigint not null,
    check (reserved_minor <= limit_minor)
);

-- The part of a customer's credit that one order has.
create table credit (
    order_id     uuid   primary key,
    user_id      text   not null references customer (user_id),
    amount_minor bigint not null check (amount_minor >= 0),
    state        text   not null check (state in ('reserved', 'released', 'spent')),
    created_at   bigint not null,
    updated_at   bigint not null
);
create index credit_user on credit (user_id, state);
