INSERT INTO semel_record (
    key, tenant, operation, state, effect, counter, nonce, fingerprint, attempts, lost_leases,
    created_at, updated_at, deadline, since, hold_cause, hold_detail, steps, outcome
) VALUES (
    :key, :tenant, :operation, :state, :effect, :counter, :nonce, :fingerprint, :attempts,
    :lost_leases, :created_at, :updated_at, :deadline, :since, :hold_cause, :hold_detail, :steps,
    :outcome
)
ON CONFLICT (key, tenant, operation) DO UPDATE SET
    state = excluded.state,
    effect = excluded.effect,
    counter = excluded.counter,
    nonce = excluded.nonce,
    fingerprint = excluded.fingerprint,
    attempts = excluded.attempts,
    lost_leases = excluded.lost_leases,
    created_at = excluded.created_at,
    updated_at = excluded.updated_at,
    deadline = excluded.deadline,
    since = excluded.since,
    hold_cause = excluded.hold_cause,
    hold_detail = excluded.hold_detail,
    steps = excluded.steps,
    outcome = excluded.outcome
