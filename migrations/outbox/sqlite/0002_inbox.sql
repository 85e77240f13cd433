-- Where each consumer stands. The database is the truth for offsets, not the consumer group.
create table consumer_offset (
    consumer     text   not null,
    topic        text   not null,
    topic_id     text   not null,                   -- another id: the topic was made anew
    partition    integer not null,
    next_offset  bigint not null,
    leader_epoch integer not null default -1,
    owner_epoch  bigint not null default 0,         -- raised by each claim; guards next_offset
    owner        text,
    floor_offset bigint not null default 0,         -- inbox rows below were purged
    stopped      text,                              -- why the partition stopped loudly, else null
    updated_at   bigint not null,
    primary key (consumer, topic, partition)
);

-- Which messages were handled: the insert is the claim.
create table inbox (
    consumer      text   not null,
    ce_source     text   not null,                  -- without an id: '' ...
    ce_id         text   not null,                  -- ... and topic id/partition/offset
    topic         text   not null,
    partition     integer not null,
    record_offset bigint not null,
    message_type  text,
    message_key   blob,
    state         text   not null check (state in ('handled', 'waiting', 'dead', 'discarded')),
    received_at   bigint not null,
    handled_at    bigint,
    primary key (consumer, ce_source, ce_id)
);
create index inbox_coordinates on inbox (consumer, topic, partition, record_offset);

-- Messages to try again, and those that queue behind them in the order of their key.
create table inbox_waiting (
    consumer      text   not null,
    topic         text   not null,
    partition     integer not null,
    record_offset bigint not null,
    ce_source     text   not null,
    ce_id         text   not null,
    message_type  text,
    message_key   blob,                            -- null: waits alone
    headers       text   not null,                  -- JSON array of [name, base64]
    payload       blob  not null,
    attempts      integer not null,                 -- tries made, 0 for one that only queues
    due_at        bigint not null,
    last_error    text,
    received_at   bigint not null,
    primary key (consumer, topic, partition, record_offset)
);
-- No index on message_key: a key may be megabytes long, and Postgres refuses long index entries. The
-- owner of a partition reads its queues when it claims it and keeps them in memory.

-- Messages that were refused or whose attempts are used up. Their key stays parked behind them.
create table inbox_dead_letter (
    consumer      text   not null,
    topic         text   not null,
    partition     integer not null,
    record_offset bigint not null,
    ce_source     text   not null,
    ce_id         text   not null,
    message_type  text,
    message_key   blob,
    headers       text   not null,
    payload       blob  not null,
    attempts      integer not null,
    reason        text   not null,
    state         text   not null default 'dead' check (state in ('dead', 'replayed', 'discarded')),
    died_at       bigint not null,
    primary key (consumer, topic, partition, record_offset)
);

-- Replay and discard are wishes; the instance that owns the partition carries them out.
create table inbox_dead_letter_request (
    id            integer primary key autoincrement,
    kind          text   not null check (kind in ('replay', 'discard')),
    consumer      text   not null,
    topic         text   not null,
    partition     integer not null,
    record_offset bigint not null,
    state         text   not null default 'requested'
                  check (state in ('requested', 'done', 'refused')),
    requested_by  text   not null,
    note          text,
    requested_at  bigint not null,
    finished_at   bigint
);

-- Answers already given, by Idempotency-Key.
create table idempotency_key (
    method       text    not null,
    path         text    not null,
    user_id      text    not null,
    key          text    not null,
    body_hash    blob   not null,
    status       integer,                           -- null only inside the transaction that answers
    headers      text,                              -- JSON object
    body         blob,
    created_at   bigint  not null,
    primary key (method, path, user_id, key)
);
create index idempotency_key_age on idempotency_key (created_at);

create view inbox_view as
select consumer, ce_source, ce_id, message_type, topic, partition, record_offset,
       case
           when message_key is null then null
           when instr(message_key, x'00') = 0
                and cast(message_key as text) not glob '*[^' || char(1) || '-' || char(127) || ']*'
               then cast(message_key as text)
           -- Not plain ASCII: walk the bytes, one well-formed character (RFC 3629) at a time. The
           -- walk is quadratic, so a long value is shown as hex unseen.
           when length(message_key) <= 20000 and (with recursive walk(at) as (
                     select 1
                     union all
                     select at + case
                         when substr(message_key, at, 1) between x'01' and x'7F' then 1
                         when substr(message_key, at, 1) between x'C2' and x'DF'
                              and substr(message_key, at + 1, 1) between x'80' and x'BF' then 2
                         when (substr(message_key, at, 2) between x'E0A0' and x'E0BF'
                               or substr(message_key, at, 2) between x'ED80' and x'ED9F'
                               or (substr(message_key, at, 1) between x'E1' and x'EF'
                                   and substr(message_key, at, 1) <> x'ED'
                                   and substr(message_key, at + 1, 1) between x'80' and x'BF'))
                              and substr(message_key, at + 2, 1) between x'80' and x'BF' then 3
                         when (substr(message_key, at, 2) between x'F090' and x'F0BF'
                               or substr(message_key, at, 2) between x'F480' and x'F48F'
                               or (substr(message_key, at, 1) between x'F1' and x'F3'
                                   and substr(message_key, at + 1, 1) between x'80' and x'BF'))
                              and substr(message_key, at + 2, 1) between x'80' and x'BF'
                              and substr(message_key, at + 3, 1) between x'80' and x'BF' then 4
                     end
                     from walk where at <= length(message_key))
                 select count(*) - count(at) from walk) = 0
               then cast(message_key as text)
           else '\x' || lower(hex(message_key))
       end as message_key, state,
       strftime('%Y-%m-%dT%H:%M:%S', received_at / 1000000, 'unixepoch')
          || printf('.%06dZ', received_at % 1000000) as received_at
from inbox;
