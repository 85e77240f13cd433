-- One row per saga: what it is and where it stands. Locked first by every reply and every timer.
create table saga_instance (
    saga_id            blob primary key,
    definition         text    not null,
    definition_version integer not null,            -- a running saga ends by the version it began with
    subject            text    not null,            -- what it is about: the order id
    status             text    not null
                       check (status in ('running', 'compensating', 'completed', 'compensated', 'stuck')),
    reason             text,                        -- why it is compensated
    version            bigint  not null,            -- number of its events
    correlation_id     blob    not null,
    traceparent        text,
    tracestate         text,
    started_at         bigint  not null,            -- microseconds, UTC
    updated_at         bigint  not null,
    ended_at           bigint
);
create index saga_instance_status on saga_instance (status, started_at);
create index saga_instance_started on saga_instance (started_at);
create index saga_instance_subject on saga_instance (subject);

-- The log: append-only, the saga's state is its fold.
create table saga_event (
    saga_id            blob    not null,
    seq                bigint  not null,            -- 1, 2, 3 ... without a gap
    kind               text    not null,
    step               text,                        -- null: about the saga as a whole
    branch             integer not null default 0,  -- which of the parallel runs of the step
    attempt            integer not null default 0,  -- which try of the command, from 1
    body               text    not null,            -- JSON, see onceward_saga::SagaEvent
    caused_by          blob,                        -- the message that led to it
    occurred_at        bigint  not null,
    primary key (saga_id, seq)
);

-- Alarm clocks of any owner. Names are never reused by an owner: armed once, ended once.
create table timer (
    owner_kind  text   not null,                    -- 'saga'
    owner_id    blob   not null,
    name        text   not null,                    -- 'deadline/payment/0/1'
    state       text   not null check (state in ('armed', 'fired', 'disarmed')),
    armed_at    bigint not null,
    fire_at     bigint not null,                    -- microseconds; this host's clock
    finished_at bigint,
    primary key (owner_kind, owner_id, name)
);
create index timer_due on timer (fire_at) where state = 'armed';

-- A participant's side of a step: reservation record and tombstone in one row, inserted or locked
-- first by both the command and its cancel, so that whichever comes first is seen by the other.
create table saga_step (
    saga_id    blob    not null,
    step       text    not null,
    branch     integer not null,
    state      text    not null check (state in ('claimed', 'done', 'refused', 'cancelled')),
    attempt    integer not null,                    -- highest try of the command that was answered
    command    text,                                -- JSON; null: the cancel came first
    reply_type text,
    reply      text,                                -- JSON; what a repeated command is answered with
    subject    text    not null,
    created_at bigint  not null,
    updated_at bigint  not null,
    primary key (saga_id, step, branch)
);
create index saga_step_subject on saga_step (subject);

-- For people.
create view saga_view as
select lower(substr(hex(saga_id), 1, 8) || '-' || substr(hex(saga_id), 9, 4) || '-' || substr(hex(saga_id), 13, 4)
          || '-' || substr(hex(saga_id), 17, 4) || '-' || substr(hex(saga_id), 21)) as saga_id,
       definition, definition_version, subject, status, reason, version,
       strftime('%Y-%m-%dT%H:%M:%S', started_at / 1000000, 'unixepoch') || printf('.%06dZ', started_at % 1000000) as started_at,
       strftime('%Y-%m-%dT%H:%M:%S', ended_at / 1000000, 'unixepoch') || printf('.%06dZ', ended_at % 1000000) as ended_at
from saga_instance;

create view saga_event_view as
select lower(substr(hex(saga_id), 1, 8) || '-' || substr(hex(saga_id), 9, 4) || '-' || substr(hex(saga_id), 13, 4)
          || '-' || substr(hex(saga_id), 17, 4) || '-' || substr(hex(saga_id), 21)) as saga_id,
       seq, kind, step, branch, attempt, body,
       strftime('%Y-%m-%dT%H:%M:%S', occurred_at / 1000000, 'unixepoch') || printf('.%06dZ', occurred_at % 1000000) as occurred_at
from saga_event;

create view saga_step_view as
select lower(substr(hex(saga_id), 1, 8) || '-' || substr(hex(saga_id), 9, 4) || '-' || substr(hex(saga_id), 13, 4)
          || '-' || substr(hex(saga_id), 17, 4) || '-' || substr(hex(saga_id), 21)) as saga_id,
       step, branch, state, attempt, subject, command, reply_type,
       strftime('%Y-%m-%dT%H:%M:%S', updated_at / 1000000, 'unixepoch') || printf('.%06dZ', updated_at % 1000000) as updated_at
from saga_step;
