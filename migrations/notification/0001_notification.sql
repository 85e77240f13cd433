-- Whose order it is: only order.created says so, and it may come after the others.
create table contact (
    order_id uuid primary key,
    user_id  text not null
);

-- What a user wants; without a row: everything, at the usual address.
create table preference (
    user_id    text   primary key,
    address    text,                                -- null: the usual one
    wants      text   not null check (wants in ('all', 'high', 'none')),
    updated_at bigint not null
);

-- One row per mail, written with the inbox row of the message that led to it.
create table mail (
    mail_id    uuid   primary key,                  -- id of that message; the mail's Message-ID
    order_id   uuid   not null,
    template   text   not null,
    reason     text,
    priority   bigint not null,                     -- 0: high, goes before 1: low
    state      text   not null check (state in ('waiting', 'sent', 'refused', 'unwanted')),
    attempts   bigint not null default 0,
    due_at     bigint not null,                     -- not before then; microseconds, UTC
    error      text,                                -- of the last attempt
    created_at bigint not null,
    sent_at    bigint
);
create index mail_due on mail (priority, due_at) where state = 'waiting';
