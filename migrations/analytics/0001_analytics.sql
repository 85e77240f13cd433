-- One row per order: what its messages said, in whatever order they came.
create table order_fact (
    order_id     uuid   primary key,
    created_at   bigint,                            -- when it was placed, microseconds, UTC; null: not heard yet
    amount_minor bigint,
    ended_at     bigint,
    outcome      text   check (outcome in ('completed', 'cancelled')),
    undone       bigint not null default 0          -- 1: a compensation was confirmed
);
create index order_fact_created on order_fact (created_at);
create index order_fact_ended on order_fact (ended_at);

-- How many messages of a topic were written in a minute.
create table minute_count (
    minute   bigint not null,                       -- its first microsecond, UTC
    topic    text   not null,
    messages bigint not null,
    primary key (minute, topic)
);
