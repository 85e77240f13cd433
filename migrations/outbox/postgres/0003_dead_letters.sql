-- A key, or the name of a topic, may be as long as whoever writes rows by hand makes it, and Postgres
-- refuses long entries of a btree: such a row could not be parked, and held its source for ever. A hash
-- index keeps four bytes of each and compares the texts themselves. It has one column, so the pair is one
-- value there, an array, in which no pair looks like another; and a key is found again by the index of keys.
-- SQLite has no such limit.
alter table outbox_parked_key drop constraint outbox_parked_key_pkey;
alter table outbox_parked_key add constraint outbox_parked_key_once
    exclude using hash ((array[topic, message_key]) with =);
create index outbox_parked_key_message_key on outbox_parked_key using hash (message_key);

drop index outbox_dead_letter_key;
create index outbox_dead_letter_message_key on outbox_dead_letter using hash (message_key);

create index inbox_dead_letter_request_open
    on inbox_dead_letter_request (consumer, topic, partition, id) where state = 'requested';
