-- The record of everything. Times are parameters of the statements: no DEFAULT now() anywhere.

CREATE TABLE sap_systems (
    sap_system          text PRIMARY KEY,
    hard_cap            integer NOT NULL CHECK (hard_cap BETWEEN 1 AND 256),
    -- the guard (bridge/lane.py): calls allowed at once; 0 = circuit open, 1 with failed probes = half-open
    call_window         integer NOT NULL CHECK (call_window BETWEEN 0 AND hard_cap),
    held                boolean NOT NULL DEFAULT false,
    -- who holds it: an operator, or recovery (after a restore from backup, until `bridge recover` has run)
    held_by             text CHECK (held_by IN ('operator', 'recovery')),
    -- while the circuit is open: when the next probe may go out, and how many have failed in a row
    probe_not_before    timestamptz,
    failed_probes       integer NOT NULL DEFAULT 0,
    -- since when nothing but probes has gone out; NULL: the lane is open
    closed_at           timestamptz,
    -- the distinct operations whose calls failed with no success between
    failing_operations  text[] NOT NULL DEFAULT '{}',
    -- up to here the window doubles, above it goes by single steps; NULL: no limit is known but the cap
    growth_limit        integer,
    grow_not_before     timestamptz,
    growth_steps        integer NOT NULL DEFAULT 0,
    -- when the window last shrank: what a call that began before says of SAP is no news
    shrunk_at           timestamptz,
    -- how much later than configured the read side was last seen to show a document; settling waits for that
    read_lag_excess_seconds double precision NOT NULL DEFAULT 0 CHECK (read_lag_excess_seconds >= 0),
    -- the sums of sap_slots that the window has been judged by so far
    folded_answers      bigint NOT NULL DEFAULT 0,
    folded_latency_ms   bigint NOT NULL DEFAULT 0,
    folded_at           timestamptz,
    latency_ms          double precision,
    -- how fast the backlog drains; measured while the lane is behind, since rated_at
    answers_per_second  double precision,
    rated_answers       bigint NOT NULL DEFAULT 0,
    rated_at            timestamptz
);

-- One row per call that may run at once. An operation whose outcome is unknown keeps the highest free
-- row until SAP can no longer be working on it, so calls and such operations never exceed the cap.
CREATE TABLE sap_slots (
    sap_system          text NOT NULL REFERENCES sap_systems,
    slot_number         integer NOT NULL CHECK (slot_number >= 1),
    operation_id        text,
    lease_until         timestamptz,
    last_outcome        text,
    last_latency_ms     integer,
    last_finished_at    timestamptz,
    last_success_at     timestamptz,
    -- nobody calls: SAP may still be working on what a lost call has brought
    settling            boolean NOT NULL DEFAULT false,
    -- postings that SAP has answered with a clear yes or no, and how long those took together
    answers             bigint NOT NULL DEFAULT 0,
    latency_ms_sum      bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (sap_system, slot_number)
) WITH (fillfactor = 50);

CREATE TABLE payments (
    payment_id               text PRIMARY KEY,
    partner_id               text NOT NULL,
    external_id              text NOT NULL,
    status                   text NOT NULL CHECK (status IN ('scheduled', 'accepted', 'authorized', 'paid',
                                 'partially_refunded', 'refunded', 'reversed', 'rejected', 'cancelled')),
    currency                 text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    amount_minor             bigint NOT NULL CHECK (amount_minor > 0),
    captured_minor           bigint NOT NULL DEFAULT 0,
    refunded_minor           bigint NOT NULL DEFAULT 0,
    capture                  text NOT NULL CHECK (capture IN ('automatic', 'manual')),
    requested_execution_date date,
    -- fixed at acceptance
    sap_system               text NOT NULL REFERENCES sap_systems,
    company_code             text NOT NULL,
    time_zone                text NOT NULL,
    -- debtor, creditor and remittance information, encrypted (bridge.keyring); erased by retention
    encrypted_parties        text,
    metadata                 jsonb NOT NULL,
    receipt                  text,
    -- made by a recovery from a document in SAP: it has neither parties nor a receipt, and never had
    recovered_at             timestamptz,
    created_at               timestamptz NOT NULL,
    updated_at               timestamptz NOT NULL,
    -- an operator has accepted a document that the payment did not allow: the amounts are what SAP has booked
    is_overbooked            boolean NOT NULL DEFAULT false,
    CHECK (0 <= refunded_minor AND 0 <= captured_minor),
    CHECK (is_overbooked OR (refunded_minor <= captured_minor AND captured_minor <= amount_minor))
);
CREATE UNIQUE INDEX payments_external_id ON payments (partner_id, external_id)
    WHERE status NOT IN ('rejected', 'cancelled');
-- those that have set their external id free, for whoever looks for it
CREATE INDEX payments_external_id_ended ON payments (partner_id, external_id)
    WHERE status IN ('rejected', 'cancelled');
-- by the moment at which the day begins in the time zone of the payment
CREATE INDEX payments_scheduled ON payments ((CAST(requested_execution_date AS timestamp) AT TIME ZONE time_zone))
    WHERE status = 'scheduled';
-- a list of one status must not read the paid ones, which are nearly all
CREATE INDEX payments_by_status ON payments (partner_id, status, created_at DESC, payment_id DESC)
    WHERE status <> 'paid';
CREATE INDEX payments_newest ON payments (partner_id, created_at DESC, payment_id DESC);

CREATE TABLE operations (
    operation_id        text PRIMARY KEY,
    payment_id          text NOT NULL REFERENCES payments,
    partner_id          text NOT NULL,
    -- 1 is the payment's first step; later ones run in this order
    position            integer NOT NULL CHECK (position >= 1),
    kind                text NOT NULL CHECK (kind IN ('payment', 'authorize', 'capture', 'reverse', 'refund')),
    status              text NOT NULL CHECK (status IN ('scheduled', 'accepted', 'processing', 'unknown',
                            'succeeded', 'rejected', 'cancelled', 'parked')),
    amount_minor        bigint NOT NULL CHECK (amount_minor > 0),
    -- its payment's
    sap_system          text NOT NULL,
    -- what SAP knows the operation by (DocumentReferenceID)
    sap_reference       text NOT NULL UNIQUE CHECK (sap_reference ~ '^[A-Z2-7]{16}$'),
    -- rises after a definite refusal only; part of MessageHeader/UUID
    generation          integer NOT NULL DEFAULT 0,
    -- rises at each dispatch and at each claim: a message with another number is out of date
    dispatch_number     bigint NOT NULL DEFAULT 0,
    -- when it was last published and not yet claimed; what the watchdog looks at
    dispatched_at       timestamptz,
    dispatches_without_claim integer NOT NULL DEFAULT 0,
    -- the claim: who else may not touch it until then
    lease_until         timestamptz,
    -- a request may have reached SAP and its outcome is not recorded
    sent_unresolved     boolean NOT NULL DEFAULT false,
    -- poison guard: claims started, and how many of them had been when one last came to a recorded end
    claims_started      integer NOT NULL DEFAULT 0,
    claims_finished     integer NOT NULL DEFAULT 0,
    -- failures while others in the lane succeeded
    attempts            integer NOT NULL DEFAULT 0,
    last_attempt_at     timestamptz,
    -- the journal entry as first rendered (encrypted), and the clear values the resolver compares with
    encrypted_document  text,
    document_type       text,
    -- the posting date that the document carries, and whether a closed period moves it to the next month
    posting_date        date,
    next_open_day       boolean NOT NULL DEFAULT false,
    -- unknown outcome: no answer counts before settled_at; when SAP first answered "none" after that
    settled_at          timestamptz,
    none_seen_at        timestamptz,
    -- SAP has processed this generation and no longer knows with what result: none means that it refused
    sap_answer_forgotten boolean NOT NULL DEFAULT false,
    sap_company_code    text,
    sap_fiscal_year     text,
    sap_document_number text,
    failure_code        text,
    failure_message     text,
    failure_pointer     text,
    -- SAP's own words (encrypted): they carry names
    encrypted_sap_log   text,
    parked_reason       text,
    -- documents that SAP has under our reference and that could not be recorded: an operator accepts one of
    -- them or disowns them. Company code/fiscal year/number, separated by commas
    found_documents     text,
    -- what an operator wants as soon as it is sure what SAP has: nothing of it is done while sent_unresolved
    operator_decision   text CHECK (operator_decision IN ('park', 'reject', 'remap')),
    -- made by a recovery from a document in SAP: it is never sent, whatever SAP answers
    recovered_at        timestamptz,
    delayed_at          timestamptz,
    traceparent         text,
    -- when the day begins that the payment is wanted for; NULL: it was wanted at once
    due_at              timestamptz,
    created_at          timestamptz NOT NULL,
    updated_at          timestamptz NOT NULL,
    completed_at        timestamptz,
    -- a recovered step is put before those that were asked for after the restore
    UNIQUE (payment_id, position) DEFERRABLE,
    CHECK ((status = 'succeeded') = (sap_document_number IS NOT NULL)),
    -- after a restore a later step waits for its turn, and SAP is asked about it before it is ever sent
    CHECK (NOT sent_unresolved OR status IN ('processing', 'unknown', 'parked')
           OR (status = 'accepted' AND position > 1)),
    CHECK ((status = 'parked') = (parked_reason IS NOT NULL)),
    CHECK ((status IN ('succeeded', 'rejected', 'cancelled')) = (completed_at IS NOT NULL))
) WITH (fillfactor = 70);
-- one operation of a payment is with SAP at a time
CREATE UNIQUE INDEX operations_one_in_flight ON operations (payment_id)
    WHERE status IN ('processing', 'unknown');
CREATE INDEX operations_dispatched ON operations (sap_system, dispatched_at) WHERE dispatched_at IS NOT NULL;
CREATE INDEX operations_leased ON operations (lease_until, operation_id) WHERE lease_until IS NOT NULL;
-- for a probe; a plan that looked for them among all that waits would read the backlog
CREATE INDEX operations_unknown ON operations (sap_system) WHERE status = 'unknown';
-- what operators have to look at: how many, and since when
CREATE INDEX operations_parked ON operations (updated_at) WHERE status = 'parked';
-- what goes on by itself when its partner does
CREATE INDEX operations_partner_held ON operations (partner_id, updated_at)
    WHERE status = 'parked' AND parked_reason = 'partner-held';

-- everything without an end by since when it waits, for the watchdog to walk through page by page
CREATE INDEX operations_waiting ON operations (greatest(created_at, due_at), operation_id)
    WHERE status IN ('scheduled', 'accepted', 'processing', 'unknown', 'parked');

CREATE TABLE idempotency_keys (
    partner_id      text NOT NULL,
    idempotency_key text NOT NULL,
    -- HMAC-SHA256 over method, path and the canonical body
    fingerprint     bytea NOT NULL,
    payment_id      text NOT NULL REFERENCES payments,
    operation_id    text,
    created_at      timestamptz NOT NULL,
    PRIMARY KEY (partner_id, idempotency_key)
);

-- Append-only: the timeline and the audit of a payment.
CREATE TABLE events (
    identity     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id     text NOT NULL UNIQUE,
    partner_id   text NOT NULL,
    payment_id   text NOT NULL REFERENCES payments,
    operation_id text,
    event_type   text NOT NULL,
    -- {"payment": {…as it was…}} without names, accounts, texts
    data         jsonb NOT NULL,
    -- the span that it came from: attempts to tell it continue the trace from there
    traceparent  text,
    created_at   timestamptz NOT NULL
);
CREATE INDEX events_payment ON events (payment_id, identity);
CREATE UNIQUE INDEX events_delayed_once ON events (operation_id) WHERE event_type = 'payment.delayed';

CREATE TABLE feed_counters (
    partner_id    text PRIMARY KEY,
    last_sequence bigint NOT NULL DEFAULT 0,
    epoch         bigint NOT NULL DEFAULT 1,
    -- after a restore the feed goes on above a jump: no event has a number above the first, up to the second
    jumped_from   bigint NOT NULL DEFAULT 0,
    jumped_to     bigint NOT NULL DEFAULT 0 CHECK (jumped_to >= jumped_from)
);
-- Retention has removed a feed up to this number. Not on the counter: retention would lock it against the sequencer.
CREATE TABLE expired_feeds (
    partner_id text PRIMARY KEY,
    expired_to bigint NOT NULL
);
CREATE TABLE feed (
    partner_id text NOT NULL,
    sequence   bigint NOT NULL CHECK (sequence >= 1),
    -- the number before this one, where a restore made the numbers jump; NULL: the next lower one
    follows    bigint CHECK (follows < sequence),
    event_id   text NOT NULL UNIQUE REFERENCES events (event_id),
    PRIMARY KEY (partner_id, sequence)
);

-- What still has to be published. A row is a SAP system's operation or a partner's event. No foreign keys: every
-- row is written by a statement that writes or reads what it points at, neither of which is ever deleted, and
-- accepting a payment would pay for the two looks and locks.
CREATE TABLE outbox (
    identity     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lane         text NOT NULL,
    partner_id   text NOT NULL,
    operation_id text,
    event_id     text,
    -- events only: their place in the feed; without one they are not relayed yet
    sequence     bigint,
    -- NULL: a later step of a payment whose turn has not come; last in the index, so nobody walks past it
    not_before   timestamptz,
    -- it has been out before: when it is due again it goes before those that have not
    is_returned  boolean NOT NULL DEFAULT false,
    -- the relay's claim; a row that is put back while it is being published loses its claim and so survives
    claim_id     uuid,
    lease_until  timestamptz,
    traceparent  text,
    created_at   timestamptz NOT NULL,
    CHECK ((operation_id IS NULL) <> (event_id IS NULL)),
    CHECK (not_before IS NOT NULL OR operation_id IS NOT NULL),
    CHECK ((lane = 'events') = (event_id IS NOT NULL))
) WITH (fillfactor = 40);  -- a row is written twice more before it goes: beside itself, so that no index hears of it
-- each row is in one of these two
CREATE UNIQUE INDEX outbox_operation ON outbox (operation_id) WHERE operation_id IS NOT NULL;
CREATE UNIQUE INDEX outbox_event ON outbox (event_id) WHERE event_id IS NOT NULL;
CREATE INDEX outbox_lane ON outbox (lane, partner_id, not_before, identity);
-- when a lane has something due next, and how old its oldest row is
CREATE INDEX outbox_due ON outbox (lane, not_before) WHERE not_before IS NOT NULL;
CREATE INDEX outbox_returned ON outbox (lane, not_before, identity) WHERE is_returned;
CREATE INDEX outbox_unsequenced ON outbox (partner_id, identity) WHERE lane = 'events' AND sequence IS NULL;

CREATE TABLE dead_letters (
    identity      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subscription  text NOT NULL,
    message_id    text NOT NULL,
    reason        text NOT NULL,
    operation_id  text,
    event_id      text,
    attributes    jsonb NOT NULL,
    status        text NOT NULL CHECK (status IN ('open', 'redriven', 'discarded', 'returned')),
    received_at   timestamptz NOT NULL,
    UNIQUE (subscription, message_id)
);
CREATE INDEX dead_letters_open ON dead_letters (received_at) WHERE status = 'open';

-- How far the job that erases has come in its walk through the payments, oldest first: the next run goes on there.
-- Payments that could not be erased when they were passed are kept by id until they can.
CREATE TABLE erasure_walk (
    is_only    boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    walked_to  text NOT NULL DEFAULT ''
);
INSERT INTO erasure_walk DEFAULT VALUES;
CREATE TABLE erasure_passed (
    payment_id text PRIMARY KEY
);

-- Who did what, when and why, by hand.
CREATE TABLE audit (
    identity   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    actor      text NOT NULL,
    action     text NOT NULL,
    subject    text NOT NULL,
    reason     text,
    created_at timestamptz NOT NULL
);

-- The cluster that this database knows itself in. Another one in its place: it was restored from a backup.
CREATE TABLE database_identity (
    is_only           boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    system_identifier bigint NOT NULL,
    timeline_id       integer NOT NULL,
    -- when the comparison with the high-water mark outside told against it, and why. Without a reason: by hand
    suspected_at      timestamptz,
    suspected_because text CHECK (suspected_because IN ('behind', 'another-database', 'mark-missing')),
    -- which database this is, wherever it is copied to
    database_id       text NOT NULL,
    -- nothing is decided unless these are the start of PostgreSQL and the table that are there now: whoever puts a
    -- database back starts PostgreSQL again or makes the tables again
    trusted_start     timestamptz NOT NULL,
    trusted_table     oid NOT NULL,
    -- since that start: it was compared with the mark; a recovery has ended, and the mark has to follow it
    is_compared       boolean NOT NULL DEFAULT false,
    takes_over        boolean NOT NULL DEFAULT false,
    -- the newest mark that was proposed, the newest that is known to stand outside, and since when
    mark_serial       bigint NOT NULL DEFAULT 0,
    proposed_at       timestamptz,
    noted_serial      bigint NOT NULL DEFAULT 0 CHECK (noted_serial <= mark_serial),
    noted_at          timestamptz,
    -- what may stand there: the token of the noted mark and of those proposed since, in order
    mark_tokens       text[] NOT NULL DEFAULT '{}',
    mark_epoch        bigint NOT NULL DEFAULT 1
);
INSERT INTO database_identity (system_identifier, timeline_id, database_id, trusted_start, trusted_table)
SELECT system_identifier, timeline_id, CAST(gen_random_uuid() AS text), pg_postmaster_start_time(),
       CAST('database_identity' AS regclass)
FROM pg_control_system(), pg_control_checkpoint();

-- What follows a restore from backup. `since`: the moment the backup is from.
CREATE TABLE recoveries (
    recovery_id       text PRIMARY KEY,
    since             timestamptz NOT NULL,
    -- documents are read from here on: `since`, or earlier if this recovery replaces one that had not finished
    reads_since       timestamptz NOT NULL CHECK (reads_since <= since),
    started_by        text NOT NULL,
    -- where it was begun: cluster, timeline, start of PostgreSQL, and this table as it was made then. Found elsewhere,
    -- or after another start, it may have come out of a backup or a copy itself, and is not carried on
    system_identifier bigint NOT NULL,
    timeline_id       integer NOT NULL,
    begun_start       timestamptz NOT NULL,
    begun_table       oid NOT NULL,
    -- NULL until the feeds go on above a jump; then no feed has a number up to the floor that is not older
    feeds_resumed     integer,
    feed_floor        bigint,
    feed_epoch        bigint,
    -- unfinished operations about which SAP is asked before they go on, and how far the walk has come
    operations_marked integer NOT NULL DEFAULT 0,
    marked_to         text NOT NULL DEFAULT '',
    is_marked         boolean NOT NULL DEFAULT false,
    started_at        timestamptz NOT NULL,
    updated_at        timestamptz NOT NULL,
    -- NULL while it runs; `is_abandoned`: another one was begun in its place
    finished_at       timestamptz,
    is_abandoned      boolean NOT NULL DEFAULT false CHECK (NOT is_abandoned OR finished_at IS NOT NULL)
);
CREATE UNIQUE INDEX recoveries_one_at_a_time ON recoveries ((true)) WHERE finished_at IS NULL;

-- How far the walk through a SAP system's documents has come. Payments are looked for first, then what
-- follows them: three passes, each from the first document on.
CREATE TABLE recovery_lanes (
    recovery_id        text NOT NULL REFERENCES recoveries,
    sap_system         text NOT NULL REFERENCES sap_systems,
    pass_number        integer NOT NULL DEFAULT 0,
    next_offset        integer NOT NULL DEFAULT 0,
    documents_read     integer NOT NULL DEFAULT 0,
    operations_made    integer NOT NULL DEFAULT 0,
    documents_unplaced integer NOT NULL DEFAULT 0,
    finished_at        timestamptz,
    PRIMARY KEY (recovery_id, sap_system)
);

-- Documents of ours in SAP that no operation could be made of: an operator has to look.
CREATE TABLE unplaced_documents (
    sap_system      text NOT NULL REFERENCES sap_systems,
    company_code    text NOT NULL,
    fiscal_year     text NOT NULL,
    document_number text NOT NULL,
    recovery_id     text NOT NULL REFERENCES recoveries,
    sap_reference   text NOT NULL,
    reason          text NOT NULL,
    -- NULL: it can't be read
    amount_minor    bigint,
    currency        text,
    -- what the document says of itself, as far as it can be read
    partner_id      text,
    external_id     text,
    kind            text,
    -- when it left the list, and how: it was given an operation, or an operator has dismissed it
    settled_at      timestamptz,
    settled_as      text CHECK (settled_as IN ('placed', 'dismissed')),
    PRIMARY KEY (sap_system, company_code, fiscal_year, document_number),
    CHECK ((settled_at IS NULL) = (settled_as IS NULL))
);
-- nothing of a payment is sent while a document that names it is unplaced
CREATE INDEX unplaced_documents_open ON unplaced_documents (partner_id, external_id) WHERE settled_at IS NULL;

-- jti of client assertions already used (RFC 7523): each once until it expires.
CREATE TABLE client_assertions (
    client_id  text NOT NULL,
    jti        text NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (client_id, jti)
);
CREATE INDEX client_assertions_expires_at ON client_assertions (expires_at);

-- The last good copy of each partner's Firestore document.
CREATE TABLE partner_configs (
    partner_id text PRIMARY KEY,
    version    bigint NOT NULL,
    document   jsonb NOT NULL,
    -- when a reader last saw the document in Firestore
    seen_at    timestamptz NOT NULL
);
CREATE INDEX partner_configs_clients ON partner_configs USING gin ((document -> 'clients') jsonb_path_ops);

CREATE SCHEMA webhooks;

CREATE TABLE webhooks.cursors (
    endpoint_id       text PRIMARY KEY,
    partner_id        text NOT NULL,
    -- the feed has been walked up to here
    sequence          bigint NOT NULL,
    -- the last event that matched the endpoint; 0 before the first
    previous_sequence bigint NOT NULL DEFAULT 0,
    -- whether its events are sent; the document in Firestore does not say
    status            text NOT NULL DEFAULT 'enabled' CHECK (status IN ('enabled', 'disabled', 'deleted')),
    disabled_reason   text CHECK (disabled_reason IN ('partner', 'gone', 'failing')),
    -- the first failure after the last success
    failing_since     timestamptz,
    -- failed attempts in a row
    failed_attempts   integer NOT NULL DEFAULT 0,
    -- while it fails, one delivery probes it: not before this moment. NULL: its deliveries are sent
    probe_at          timestamptz,
    -- whoever works for the endpoint needs the document of the partner in this version, or a newer one
    configuration_version bigint NOT NULL,
    -- its rate of deliveries: when the bucket of a second is full again; before that by a second, it is empty
    paced_until       timestamptz,
    -- once it is deleted: its open deliveries are cancelled up to this one; NULL: all are
    cancelled_to      text DEFAULT '',
    created_at        timestamptz NOT NULL,
    CHECK ((status = 'disabled') = (disabled_reason IS NOT NULL))
) WITH (fillfactor = 70);
CREATE INDEX cursors_partner ON webhooks.cursors (partner_id);
CREATE INDEX cursors_ended ON webhooks.cursors (endpoint_id) WHERE status = 'deleted' AND cancelled_to IS NOT NULL;

CREATE TABLE webhooks.deliveries (
    delivery_id       text PRIMARY KEY,
    endpoint_id       text NOT NULL REFERENCES webhooks.cursors,
    partner_id        text NOT NULL,
    -- NULL: a test that the partner has asked for, which is no event of the feed
    event_id          text REFERENCES public.events (event_id),
    sequence          bigint NOT NULL,
    previous_sequence bigint NOT NULL,
    status            text NOT NULL CHECK (status IN ('pending', 'delivered', 'exhausted', 'held', 'cancelled')),
    attempts          integer NOT NULL DEFAULT 0,
    -- how many of them were made when the schedule last began anew: enabled, redelivered, replayed
    attempts_before   integer NOT NULL DEFAULT 0,
    -- raised when a task is made again: part of the name of the task
    sweep             integer NOT NULL DEFAULT 0,
    -- the task of the next attempt: made, wanted at once, or waiting for a turn: of the partner, or of the endpoint
    task              text NOT NULL DEFAULT 'made' CHECK (task IN ('made', 'wanted', 'waiting')),
    next_attempt_at   timestamptz,
    -- the sweeper has made a task for this attempt, and makes no other before then
    swept_until       timestamptz,
    -- the place in the rate of its endpoint that the next attempt has, if it is then that it is due
    slot_at           timestamptz,
    -- the claim of a running attempt
    lease_until       timestamptz,
    delivered_at      timestamptz,
    created_at        timestamptz NOT NULL,
    UNIQUE (endpoint_id, event_id),
    CHECK ((status = 'pending') = (next_attempt_at IS NOT NULL)),
    CHECK (task = 'made' OR status = 'pending'),
    CHECK ((event_id IS NULL) = (sequence = 0))
) WITH (fillfactor = 70);
-- each pending delivery with a task is in one of these two: what the sweeper has met leaves the way for the rest
CREATE INDEX deliveries_due ON webhooks.deliveries (next_attempt_at)
    WHERE status = 'pending' AND task = 'made' AND swept_until IS NULL;
CREATE INDEX deliveries_swept ON webhooks.deliveries (swept_until)
    WHERE status = 'pending' AND task = 'made' AND swept_until IS NOT NULL;
-- how many tasks of a partner stand in the queue
CREATE INDEX deliveries_queued ON webhooks.deliveries (partner_id, next_attempt_at)
    WHERE status = 'pending' AND task = 'made';
CREATE INDEX deliveries_wanted ON webhooks.deliveries (partner_id, next_attempt_at) WHERE task = 'wanted';
CREATE INDEX deliveries_waiting ON webhooks.deliveries (endpoint_id, next_attempt_at) WHERE task = 'waiting';
CREATE INDEX deliveries_held ON webhooks.deliveries (endpoint_id, sequence) WHERE status = 'held';
CREATE INDEX deliveries_sequence ON webhooks.deliveries (endpoint_id, sequence);
CREATE INDEX deliveries_exhausted ON webhooks.deliveries (endpoint_id, created_at DESC, delivery_id DESC)
    WHERE status = 'exhausted';
CREATE INDEX deliveries_newest ON webhooks.deliveries (endpoint_id, created_at DESC, delivery_id DESC);

CREATE TABLE webhooks.attempts (
    delivery_id      text NOT NULL REFERENCES webhooks.deliveries,
    attempt_number   integer NOT NULL CHECK (attempt_number >= 1),
    started_at       timestamptz NOT NULL,
    duration_ms      integer NOT NULL,
    response_status  integer,
    error_class      text,
    -- how the answer began, for the partner to read
    response_excerpt text,
    next_attempt_at  timestamptz,
    PRIMARY KEY (delivery_id, attempt_number)
);
