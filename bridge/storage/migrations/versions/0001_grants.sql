-- One role per service (roles are the cluster's: another database of it may have made them already),
-- each with the rights its statements need and no more. Logins are members of these.
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['gateway', 'dispatcher', 'dead_letters', 'sap_adapter', 'webhooks',
                                     'partners', 'backoffice', 'retention', 'recovery'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
        EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', role_name);
    END LOOP;
END $$;

GRANT SELECT, INSERT ON payments, operations, idempotency_keys, events, outbox TO gateway;
-- accepting locks nothing but its own new rows; a later step or a cancellation locks its payment
GRANT UPDATE (status, updated_at) ON payments TO gateway;
GRANT UPDATE (status, dispatched_at, parked_reason, operator_decision, sent_unresolved, failure_code,
              failure_message, completed_at, updated_at) ON operations TO gateway;
GRANT DELETE ON outbox TO gateway;
GRANT SELECT ON feed, feed_counters, expired_feeds, sap_systems TO gateway;
GRANT SELECT, INSERT, DELETE ON client_assertions TO gateway;
-- taking a row with SKIP LOCKED asks for the right to change it
GRANT UPDATE (expires_at) ON client_assertions TO gateway;
GRANT SELECT, INSERT, UPDATE ON partner_configs TO gateway;
-- the partners' own webhook endpoints: made, disabled, ended; deliveries read, asked for again and tested
GRANT USAGE ON SCHEMA webhooks TO gateway;
GRANT SELECT, INSERT ON webhooks.cursors, webhooks.deliveries TO gateway;
GRANT UPDATE (status, disabled_reason, failing_since, failed_attempts, probe_at, configuration_version)
    ON webhooks.cursors TO gateway;
GRANT UPDATE (status, attempts_before, sweep, task, next_attempt_at, delivered_at) ON webhooks.deliveries TO gateway;
GRANT SELECT ON webhooks.attempts TO gateway;
GRANT INSERT ON audit TO gateway;

GRANT SELECT ON payments, events TO dispatcher;
-- the day of a scheduled payment has come
GRANT UPDATE (status, updated_at) ON payments TO dispatcher;
GRANT INSERT ON events TO dispatcher;
GRANT SELECT, UPDATE ON operations, sap_systems, sap_slots TO dispatcher;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox TO dispatcher;
GRANT SELECT, INSERT, UPDATE ON feed_counters TO dispatcher;
GRANT SELECT, INSERT ON feed TO dispatcher;
-- whether a partner is held
GRANT SELECT (partner_id, document) ON partner_configs TO dispatcher;

GRANT SELECT, UPDATE ON payments, operations TO dead_letters;
GRANT SELECT, INSERT ON events TO dead_letters;
GRANT SELECT, INSERT, UPDATE ON outbox, dead_letters TO dead_letters;
GRANT SELECT (sap_system, held) ON sap_systems TO dead_letters;

GRANT SELECT, UPDATE ON payments, operations, sap_systems, sap_slots TO sap_adapter;
GRANT SELECT, INSERT ON events TO sap_adapter;
-- that the decision of an operator has lapsed, because of what SAP has
GRANT INSERT ON audit TO sap_adapter;
GRANT SELECT, INSERT, UPDATE ON outbox, partner_configs TO sap_adapter;
-- a refusal rejects what waits behind it in the lane
GRANT DELETE ON outbox TO sap_adapter;

GRANT USAGE ON SCHEMA webhooks TO webhooks;
GRANT SELECT ON events, feed, feed_counters, expired_feeds TO webhooks;
GRANT SELECT, INSERT, UPDATE ON partner_configs TO webhooks;
GRANT SELECT, INSERT, UPDATE ON webhooks.cursors, webhooks.deliveries TO webhooks;
GRANT SELECT, INSERT ON webhooks.attempts TO webhooks;
-- that it has disabled an endpoint
GRANT INSERT ON audit TO webhooks;

GRANT SELECT, INSERT, UPDATE ON partner_configs TO partners;
GRANT INSERT ON audit TO partners;
GRANT SELECT (sap_system) ON sap_systems TO partners;

GRANT USAGE ON SCHEMA webhooks TO backoffice;
GRANT SELECT ON ALL TABLES IN SCHEMA public, webhooks TO backoffice;
GRANT INSERT ON audit, events, outbox TO backoffice;
-- operators park, redrive and reject; only the adapter says what SAP has
GRANT UPDATE (status, captured_minor, refunded_minor, is_overbooked, updated_at) ON payments TO backoffice;
-- but of a document that does not fit the books an operator says whether it is ours
GRANT UPDATE (sap_company_code, sap_fiscal_year, sap_document_number, found_documents, sap_reference, position)
    ON operations TO backoffice;
GRANT INSERT ON payments, operations TO backoffice;
GRANT UPDATE (settled_at, settled_as) ON unplaced_documents TO backoffice;
GRANT UPDATE (status, parked_reason, operator_decision, dispatched_at, dispatches_without_claim,
              encrypted_document, document_type, posting_date, next_open_day, settled_at, none_seen_at, sap_answer_forgotten, attempts, claims_finished,
              failure_code, failure_message, failure_pointer, encrypted_sap_log, sent_unresolved,
              lease_until, delayed_at, completed_at, updated_at) ON operations TO backoffice;
GRANT UPDATE, DELETE ON outbox TO backoffice;
GRANT UPDATE (hard_cap, call_window, held, held_by) ON sap_systems TO backoffice;
GRANT INSERT, DELETE ON sap_slots TO backoffice;
GRANT UPDATE (status) ON dead_letters TO backoffice;
GRANT INSERT ON recoveries, recovery_lanes TO backoffice;
GRANT UPDATE (finished_at, is_abandoned, updated_at) ON recoveries TO backoffice;

-- erases, and can change nothing else; it holds no key, so what it sees of these columns is whether they are set
GRANT SELECT (payment_id, created_at, encrypted_parties, receipt) ON payments TO retention;
GRANT UPDATE (encrypted_parties, receipt) ON payments TO retention;
GRANT SELECT (payment_id, status, encrypted_document, encrypted_sap_log) ON operations TO retention;
GRANT UPDATE (encrypted_document, encrypted_sap_log) ON operations TO retention;
GRANT SELECT, UPDATE ON erasure_walk TO retention;
GRANT SELECT, INSERT, DELETE ON erasure_passed TO retention;
GRANT SELECT, DELETE ON client_assertions TO retention;
-- taking a row with SKIP LOCKED asks for the right to change it
GRANT UPDATE (expires_at) ON client_assertions TO retention;
-- the feed gets shorter from its old end; the events and the counters stay as they are
GRANT SELECT, DELETE ON feed TO retention;
GRANT SELECT ON feed_counters TO retention;
GRANT SELECT, INSERT, UPDATE ON expired_feeds TO retention;
GRANT SELECT (event_id, created_at) ON events TO retention;
GRANT USAGE ON SCHEMA webhooks TO retention;
GRANT SELECT (endpoint_id, partner_id, status, sequence) ON webhooks.cursors TO retention;
GRANT SELECT (endpoint_id, event_id, status) ON webhooks.deliveries TO retention;

-- whoever decides looks first whether the database was restored and is not recovered
GRANT SELECT ON database_identity, recoveries TO gateway, dispatcher, sap_adapter, webhooks;
GRANT SELECT ON database_identity TO dead_letters;
-- compares the database with the high-water mark outside
GRANT UPDATE ON database_identity TO dispatcher;
-- and whether a document in SAP waits for an operator
GRANT SELECT ON unplaced_documents TO sap_adapter, dead_letters;

-- after a restore: marks what SAP is asked about, makes operations of SAP's documents, lets the feeds go on
GRANT SELECT ON payments, operations, outbox, sap_systems, feed_counters, partner_configs TO recovery;
GRANT SELECT, UPDATE ON recoveries, recovery_lanes, database_identity TO recovery;
GRANT SELECT, INSERT, UPDATE ON unplaced_documents TO recovery;
GRANT INSERT ON payments, operations, audit TO recovery;
GRANT SELECT, INSERT ON events TO recovery;
-- locking a payment asks for the right to change it
GRANT UPDATE (updated_at) ON payments TO recovery;
GRANT UPDATE (position, status, parked_reason, found_documents, delayed_at, sap_reference, sent_unresolved, settled_at, none_seen_at, lease_until, dispatched_at,
              dispatches_without_claim, claims_finished, encrypted_document, document_type, posting_date,
              next_open_day, updated_at) ON operations TO recovery;
GRANT INSERT, UPDATE ON outbox, feed_counters TO recovery;
GRANT DELETE ON outbox TO recovery;
GRANT UPDATE (held, held_by) ON sap_systems TO recovery;
