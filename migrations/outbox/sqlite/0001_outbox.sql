-- The outbox: what a transaction wants published. Insert-only; a row is never updated.
-- AUTOINCREMENT: a number is never given twice, so the cursor can be the last one passed.
create table outbox (
    seq            integer primary key autoincrement,
    message_id     blob    not null,
    aggregate_type text    not null,
    aggregate_id   text    not null,
    message_type   text    not null,
    topic          text    not null,
    message_key    text,
    payload        blob    not null,
    headers        text    not null,          -- JSON object: name -> text
    occurred_at    bigint  not null           -- microseconds, UTC
);

-- Who this database is, and which relay owns it. One row, made at migration.
create table outbox_source (
    id                integer primary key default 1 check (id = 1),
    name              text   not null,
    source_id         blob   not null,
    epoch             bigint not null default 1,    -- raised by reset and adopt
    relay_epoch       bigint not null default 0,    -- raised by each claim; guards every relay write
    owner             text,                         -- instance id of the relay that holds the lease
    lease_until       bigint not null default 0,    -- microseconds, this host's clock
    system_identifier text,                         -- unused: Postgres only
    database_name     text,
    created_at        bigint not null
);

-- Mirror of the progress record that the relay commits to Kafka. Written only after a known commit.
create table outbox_progress (
    id              integer primary key default 1 check (id = 1),
    epoch           bigint not null,
    cursor          text   not null,                -- JSON, see onceward::Cursor
    position        bigint not null,
    passed          bigint not null,
    id_sum          blob   not null,                -- 16 bytes, big endian
    last_seq        bigint,                         -- last passed row, null before the first
    last_message_id blob,
    progress_offset bigint not null,                -- offset of the record in outbox.progress.<source>
    topic_id        text   not null,
    cluster_id      text   not null,
    floor_seq       bigint not null default 0,      -- rows up to here were purged by the janitor
    updated_at      bigint not null
);

-- Keys whose rows are withheld since one of them was refused. Later rows of the key join it.
create table outbox_parked_key (
    topic       text   not null,
    message_key text   not null,
    reason      text   not null,
    parked_at   bigint not null,
    primary key (topic, message_key)
);

-- Copies of rows that were refused (or queue behind one that was).
create table outbox_dead_letter (
    message_id     blob   primary key,
    seq            bigint not null,
    aggregate_type text   not null,
    aggregate_id   text   not null,
    message_type   text   not null,
    topic          text   not null,
    message_key    text,                            -- null: parked alone
    payload        blob   not null,
    headers        text   not null,
    occurred_at    bigint not null,
    reason         text   not null,
    state          text   not null default 'parked' check (state in ('parked', 'discarded')),
    parked_at      bigint not null
);
create index outbox_dead_letter_key on outbox_dead_letter (topic, message_key, seq);

-- Replay and discard are wishes; the relay that owns the source carries them out, one at a time.
create table outbox_dead_letter_request (
    id           integer primary key autoincrement,
    kind         text   not null check (kind in ('replay', 'discard')),
    topic        text   not null,
    message_key  text,
    message_id   blob,                              -- only for a row without a key
    number       bigint unique,                     -- given by the owner when it starts
    state        text   not null default 'requested'
                 check (state in ('requested', 'running', 'done', 'refused')),
    requested_by text   not null,
    note         text,
    requested_at bigint not null,
    finished_at  bigint
);

-- Bytes for people: as text where they are valid UTF-8, else as hex. A reader must not fail on a row.
create view outbox_view as
select o.seq,
       lower(substr(hex(o.message_id), 1, 8) || '-' || substr(hex(o.message_id), 9, 4) || '-'
          || substr(hex(o.message_id), 13, 4) || '-' || substr(hex(o.message_id), 17, 4) || '-'
          || substr(hex(o.message_id), 21))                  as message_id,
       o.message_type,
       o.topic,
       o.message_key,
       o.aggregate_type,
       o.aggregate_id,
       strftime('%Y-%m-%dT%H:%M:%S', o.occurred_at / 1000000, 'unixepoch')
          || printf('.%06dZ', o.occurred_at % 1000000)       as occurred_at,
       case
           when o.payload is null then null
           when instr(o.payload, x'00') = 0
                and cast(o.payload as text) not glob '*[^' || char(1) || '-' || char(127) || ']*'
               then cast(o.payload as text)
           -- Not plain ASCII: walk the bytes, one well-formed character (RFC 3629) at a time. The
           -- walk is quadratic, so a long value is shown as hex unseen.
           when length(o.payload) <= 20000 and (with recursive walk(at) as (
                     select 1
                     union all
                     select at + case
                         when substr(o.payload, at, 1) between x'01' and x'7F' then 1
                         when substr(o.payload, at, 1) between x'C2' and x'DF'
                              and substr(o.payload, at + 1, 1) between x'80' and x'BF' then 2
                         when (substr(o.payload, at, 2) between x'E0A0' and x'E0BF'
                               or substr(o.payload, at, 2) between x'ED80' and x'ED9F'
                               or (substr(o.payload, at, 1) between x'E1' and x'EF'
                                   and substr(o.payload, at, 1) <> x'ED'
                                   and substr(o.payload, at + 1, 1) between x'80' and x'BF'))
                              and substr(o.payload, at + 2, 1) between x'80' and x'BF' then 3
                         when (substr(o.payload, at, 2) between x'F090' and x'F0BF'
                               or substr(o.payload, at, 2) between x'F480' and x'F48F'
                               or (substr(o.payload, at, 1) between x'F1' and x'F3'
                                   and substr(o.payload, at + 1, 1) between x'80' and x'BF'))
                              and substr(o.payload, at + 2, 1) between x'80' and x'BF'
                              and substr(o.payload, at + 3, 1) between x'80' and x'BF' then 4
                     end
                     from walk where at <= length(o.payload))
                 select count(*) - count(at) from walk) = 0
               then cast(o.payload as text)
           else '\x' || lower(hex(o.payload))
       end                                                   as payload,
       o.headers,
       o.seq <= coalesce(json_extract(p.cursor, '$.seq'), 0) as published
from outbox o left join outbox_progress p on p.id = 1;
