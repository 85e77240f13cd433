create table if not exists orders (id uuid primary key, item text not null, amount_minor bigint not null)
