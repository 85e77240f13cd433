create index inbox_dead_letter_request_open
    on inbox_dead_letter_request (consumer, topic, partition, id) where state = 'requested';
