-- What operators want done to sagas: written by a tool, carried out by the coordinator.
create table saga_request (
    id           integer primary key autoincrement,
    saga_id      blob   not null,
    verb         text   not null check (verb in ('retry', 'skip', 'force-complete', 'force-compensate')),
    step         text,                              -- null: as many as the verb makes sense for
    requested_by text   not null,
    why          text   not null,
    requested_at bigint not null,
    state        text   not null default 'requested' check (state in ('requested', 'done', 'refused')),
    note         text,                              -- why it is refused
    finished_at  bigint
);
create index saga_request_open on saga_request (id) where state = 'requested';
