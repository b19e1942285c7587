CREATE TABLE IF NOT EXISTS documents (
    identity INTEGER PRIMARY KEY AUTOINCREMENT, -- never given twice, even if a row is deleted by hand
    company_code TEXT NOT NULL,
    fiscal_year TEXT NOT NULL,
    number TEXT NOT NULL,
    reference TEXT NOT NULL,
    kind TEXT NOT NULL,
    document_type TEXT NOT NULL,
    header_text TEXT NOT NULL,
    created_by TEXT NOT NULL,
    logical_system TEXT NOT NULL,
    document_date TEXT NOT NULL,
    posting_date TEXT NOT NULL,
    currency TEXT NOT NULL,
    amount TEXT NOT NULL, -- debit total, as sent
    reversal_reason TEXT NOT NULL,
    reversed_key TEXT, -- AWKEY of the document this one reverses
    committed_at_ms INTEGER NOT NULL,
    UNIQUE (company_code, fiscal_year, number)
);
CREATE INDEX IF NOT EXISTS documents_by_reference ON documents (reference);
CREATE UNIQUE INDEX IF NOT EXISTS documents_by_reversed_key ON documents (reversed_key);
CREATE TABLE IF NOT EXISTS items (
    document_identity INTEGER NOT NULL REFERENCES documents (identity) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    kind TEXT NOT NULL,
    account TEXT NOT NULL,
    amount TEXT NOT NULL,
    currency TEXT NOT NULL,
    debit_credit TEXT NOT NULL,
    text TEXT NOT NULL,
    assignment TEXT NOT NULL,
    reference1 TEXT NOT NULL,
    reference3 TEXT NOT NULL,
    PRIMARY KEY (document_identity, position)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS number_ranges (
    company_code TEXT NOT NULL,
    fiscal_year TEXT NOT NULL,
    range TEXT NOT NULL, -- the two digits its numbers begin with
    last INTEGER NOT NULL,
    PRIMARY KEY (company_code, fiscal_year, range)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS responses (
    uuid TEXT PRIMARY KEY,
    confirmation TEXT NOT NULL,
    stored_at_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refusals (
    reference TEXT NOT NULL,
    reason TEXT NOT NULL,
    times INTEGER NOT NULL,
    PRIMARY KEY (reference, reason)
) WITHOUT ROWID;
