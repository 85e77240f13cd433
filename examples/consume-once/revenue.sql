create table if not exists revenue (
    id           integer primary key check (id = 1),
    orders       bigint not null,
    amount_minor bigint not null
);
insert into revenue values (1, 0, 0) on conflict do nothing;
