-- Who reacts to whom in an order without a coordinator; null with one.
alter table orders add column choreography text
    check (choreography in ('payment-first', 'pipeline'));
-- Whether one of before is without a coordinator, `saga` tells.
update orders set choreography = 'payment-first' where saga = 'choreography';
