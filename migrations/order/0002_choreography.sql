-- How an order's services work together: commanded by the saga orchestrator, or each in reaction to the others.
alter table orders add column saga text not null default 'orchestration'
    check (saga in ('orchestration', 'choreography'));
