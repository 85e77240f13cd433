-- The outbox: what a transaction wants published. Insert-only; a row is never updated.
create table outbox (
    seq            bigint generated always as identity (cache 1) primary key,
    tx_id          xid8   not null default pg_current_xact_id(),
    message_id     uuid   not null,
    aggregate_type text   not null,
    aggregate_id   text   not null,
    message_type   text   not null,
    topic          text   not null,
    message_key    text,
    payload        bytea  not null,
    headers        text   not null,          -- JSON object: name -> text
    occurred_at    bigint not null           -- microseconds, UTC
);
-- Serves "not visible in the previous snapshot": tx_id >= xmax(prev), or tx_id = any(xip(prev)).
create index outbox_tx_id_seq on outbox (tx_id, seq);

-- Who this database is, and which relay owns it. One row, made at migration.
create table outbox_source (
    id                smallint primary key default 1 check (id = 1),
    name              text   not null,
    source_id         uuid   not null,
    epoch             bigint not null default 1,    -- raised by reset and adopt
    relay_epoch       bigint not null default 0,    -- raised by each claim; guards every relay write
    owner             text,                         -- instance id of the relay that holds the lease
    lease_until       bigint not null default 0,    -- microseconds, this database's clock
    system_identifier text,                         -- pg_control_system()
    database_name     text,
    created_at        bigint not null
);

-- Mirror of the progress record that the relay commits to Kafka. Written only after a known commit.
create table outbox_progress (
    id              smallint primary key default 1 check (id = 1),
    epoch           bigint not null,
    cursor          text   not null,                -- JSON, see onceward::Cursor
    position        bigint not null,
    passed          bigint not null,
    id_sum          bytea  not null,                -- 16 bytes, big endian
    last_seq        bigint,                         -- last passed row, null before the first
    last_message_id uuid,
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
    message_id     uuid   primary key,
    seq            bigint not null,
    aggregate_type text   not null,
    aggregate_id   text   not null,
    message_type   text   not null,
    topic          text   not null,
    message_key    text,                            -- null: parked alone
    payload        bytea  not null,
    headers        text   not null,
    occurred_at    bigint not null,
    reason         text   not null,
    state          text   not null default 'parked' check (state in ('parked', 'discarded')),
    parked_at      bigint not null
);
create index outbox_dead_letter_key on outbox_dead_letter (topic, message_key, seq);

-- Replay and discard are wishes; the relay that owns the source carries them out, one at a time.
create table outbox_dead_letter_request (
    id           bigint generated always as identity primary key,
    kind         text   not null check (kind in ('replay', 'discard')),
    topic        text   not null,
    message_key  text,
    message_id   uuid,                              -- only for a row without a key
    number       bigint unique,                     -- given by the owner when it starts
    state        text   not null default 'requested'
                 check (state in ('requested', 'running', 'done', 'refused')),
    requested_by text   not null,
    note         text,
    requested_at bigint not null,
    finished_at  bigint
);

-- Bytes for people: as text where they are valid UTF-8, else as hex. A view must not fail on a row.
create function onceward_text(bytes bytea) returns text
language plpgsql immutable strict as $$
begin
    return convert_from(bytes, 'UTF8');
exception when others then
    return '\x' || encode(bytes, 'hex');
end
$$;

create view outbox_view as
select o.seq,
       o.message_id::text                                    as message_id,
       o.message_type,
       o.topic,
       o.message_key,
       o.aggregate_type,
       o.aggregate_id,
       to_char(to_timestamp(o.occurred_at / 1e6) at time zone 'UTC',
               'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')              as occurred_at,
       onceward_text(o.payload)                              as payload,
       o.headers,
       coalesce(pg_visible_in_snapshot(o.tx_id, (p.cursor::json ->> 'done')::pg_snapshot), false)
       or coalesce(o.seq <= (p.cursor::json -> 'page' ->> 'last_seq')::bigint
                   and pg_visible_in_snapshot(
                       o.tx_id, (p.cursor::json -> 'page' ->> 'current')::pg_snapshot), false)
                                                             as published
from outbox o left join outbox_progress p on p.id = 1;
