-- One text for both databases. Times are microseconds, UTC.

-- What is there of each product. The checks are the audit: nothing is reserved that is not there,
-- and nothing appears or vanishes.
create table product (
    product_id text   primary key,
    stock      bigint not null check (stock >= 0),       -- free to be reserved
    reserved   bigint not null default 0 check (reserved >= 0),
    sold       bigint not null default 0 check (sold >= 0),
    supplied   bigint not null,                          -- all that ever came in
    updated_at bigint not null default 0,
    check (stock + reserved + sold = supplied)
);

create table reservation (
    order_id   uuid   primary key,
    product_id text   not null references product (product_id),
    quantity   bigint not null check (quantity > 0),
    state      text   not null check (state in ('reserved', 'released', 'sold')),
    created_at bigint not null,
    updated_at bigint not null
);
create index reservation_product on reservation (product_id, state);

insert into product (product_id, stock, supplied) values
    ('product_1', 1000000, 1000000),
    ('product_2', 10000, 10000),
    ('product_3', 50, 50),
    ('product_4', 500, 500),
    ('product_5', 1000, 1000);
