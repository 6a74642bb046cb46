package sqlstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
)

// postgresSchema is versioned: see schema. All writing is done by functions, or by
// the short statements of postgres_claim.go, so that each operation is one
// statement, which the server finishes or undoes whatever becomes of the client.
//
// A row with token 0 is none: Claim leaves them, to have rows to lock.
func postgresSchema() schema {
	return schema{{
		`CREATE TABLE bullpen_lease (
	key text COLLATE "C" PRIMARY KEY,
	token bigint NOT NULL CHECK (token >= 0),
	renewals bigint NOT NULL CHECK (renewals >= 0),
	kept boolean NOT NULL DEFAULT false,
	data text NOT NULL,
	sum text NOT NULL
) WITH (fillfactor = 70)`,
		`CREATE SEQUENCE bullpen_token AS bigint MINVALUE 1 START 1 CACHE 1 NO CYCLE`,
		`CREATE FUNCTION bullpen_sum(p_token bigint, p_renewals bigint, p_key text, p_data text) RETURNS text LANGUAGE sql STABLE AS $f$
	SELECT left(encode(sha256(convert_to(p_token::text || ' ' || p_renewals::text || ' ' || p_key || ' ' || p_data, 'UTF8')), 'hex'), 16)
$f$`,
		`CREATE FUNCTION bullpen_tell(p_key text) RETURNS void LANGUAGE plpgsql AS $f$
BEGIN
	IF coalesce(current_setting('bullpen.notify', true), '') <> '' THEN
		PERFORM pg_notify(current_setting('bullpen.notify'), CASE WHEN octet_length(p_key) < 8000 THEN p_key ELSE '' END);
	END IF;
END $f$`,
		swapFunction,
		`CREATE FUNCTION bullpen_swap_all(p_items text) RETURNS TABLE (x_done boolean, x_key text, x_token bigint, x_renewals bigint, x_data text, x_sum text) LANGUAGE plpgsql AS $f$
DECLARE i record;
BEGIN
	FOR i IN SELECT * FROM json_to_recordset(p_items::json) AS r(k text, t bigint, n bigint, f boolean, d text) LOOP
		x_key := i.k;
		SELECT s.x_done, s.x_token, s.x_renewals, s.x_data, s.x_sum INTO x_done, x_token, x_renewals, x_data, x_sum
			FROM bullpen_swap(i.k, i.t, i.n, i.f, i.d) AS s;
		RETURN NEXT;
	END LOOP;
END $f$`,
		`CREATE FUNCTION bullpen_delete(p_key text, p_token bigint, p_renewals bigint) RETURNS boolean LANGUAGE plpgsql AS $f$
BEGIN
	IF p_token > 0 THEN
		DELETE FROM bullpen_lease WHERE key = p_key AND token = p_token AND renewals = p_renewals AND NOT kept;
		IF FOUND THEN PERFORM bullpen_tell(p_key); RETURN true; END IF;
		UPDATE bullpen_lease SET token = 0, renewals = 0, data = '', sum = '' WHERE key = p_key AND token = p_token AND renewals = p_renewals;
		IF FOUND THEN PERFORM bullpen_tell(p_key); RETURN true; END IF;
	END IF;
	PERFORM 1 FROM bullpen_lease WHERE key = p_key AND token > 0;
	RETURN NOT FOUND;
END $f$`,
		claimFunction,
	}, {
		// A CHECK is read and planned anew for each statement that writes, which is a
		// tenth of a claim. Rows have their sums, and verifyPostgres looks at these two.
		`ALTER TABLE bullpen_lease DROP CONSTRAINT IF EXISTS bullpen_lease_token_check, DROP CONSTRAINT IF EXISTS bullpen_lease_renewals_check`,
	}}
}

// The token is drawn when the row is locked: one that was drawn before could be
// written after a later one.
const swapFunction = `CREATE FUNCTION bullpen_swap(p_key text, p_token bigint, p_renewals bigint, p_fresh boolean, p_data text,
	OUT x_done boolean, OUT x_token bigint, OUT x_renewals bigint, OUT x_data text, OUT x_sum text) LANGUAGE plpgsql AS $f$
DECLARE r bullpen_lease%ROWTYPE;
BEGIN
	LOOP
		SELECT * INTO r FROM bullpen_lease WHERE key = p_key FOR UPDATE;
		EXIT WHEN FOUND;
		IF p_token <> 0 THEN
			x_done := false; x_token := 0; x_renewals := 0; x_data := ''; x_sum := '';
			RETURN;
		END IF;
		INSERT INTO bullpen_lease (key, token, renewals, data, sum) VALUES (p_key, 0, 0, '', '') ON CONFLICT (key) DO NOTHING;
	END LOOP;
	IF r.token <> p_token OR (p_token <> 0 AND r.renewals <> p_renewals) THEN
		x_done := false; x_token := r.token; x_renewals := r.renewals; x_data := r.data; x_sum := r.sum;
		RETURN;
	END IF;
	IF p_fresh THEN
		x_token := nextval('bullpen_token'); x_renewals := 0;
	ELSIF p_token = 0 THEN
		RAISE EXCEPTION 'swap of nothing for % without a new token', p_key;
	ELSE
		x_token := p_token; x_renewals := p_renewals + 1;
	END IF;
	IF p_fresh AND x_token <= r.token THEN
		RAISE EXCEPTION 'the sequence bullpen_token is at %, but % was given already', x_token, r.token USING ERRCODE = 'data_corrupted';
	END IF;
	x_done := true; x_data := ''; x_sum := bullpen_sum(x_token, x_renewals, p_key, p_data);
	UPDATE bullpen_lease SET token = x_token, renewals = x_renewals, data = p_data, sum = x_sum WHERE key = p_key;
	PERFORM bullpen_tell(p_key);
END $f$`

// A key whose row another claim has locked is passed by: it is about to be held.
const claimFunction = `CREATE FUNCTION bullpen_claim(p_keys text, p_data text, OUT x_key text, OUT x_token bigint) LANGUAGE plpgsql AS $f$
BEGIN
	INSERT INTO bullpen_lease (key, token, renewals, kept, data, sum)
		SELECT DISTINCT n.name COLLATE "C", 0, 0, true, '', '' FROM json_array_elements_text(p_keys::json) AS n(name)
		WHERE NOT EXISTS (SELECT FROM bullpen_lease AS l WHERE l.key = n.name COLLATE "C") ORDER BY 1
		ON CONFLICT (key) DO NOTHING;
	SELECT l.key INTO x_key FROM json_array_elements_text(p_keys::json) WITH ORDINALITY AS n(name, place)
		JOIN bullpen_lease AS l ON l.key = n.name COLLATE "C"
		WHERE l.token = 0 ORDER BY n.place LIMIT 1 FOR UPDATE OF l SKIP LOCKED;
	IF NOT FOUND THEN
		x_key := NULL; x_token := NULL;
		RETURN;
	END IF;
	x_token := nextval('bullpen_token');
	UPDATE bullpen_lease SET token = x_token, renewals = 0, kept = true, data = p_data, sum = bullpen_sum(x_token, 0, x_key, p_data) WHERE key = x_key;
	PERFORM bullpen_tell(x_key);
END $f$`

const createPostgresMeta = `CREATE TABLE IF NOT EXISTS bullpen_meta (
	one integer PRIMARY KEY CHECK (one = 1),
	version integer NOT NULL,
	id text NOT NULL
)`

// schemaLock is the key of the advisory lock under which the tables are made.
const schemaLock = 0x62756c6c70656e

// prepare looks at the server, and makes or migrates and verifies the tables.
func (b *postgres) prepare(ctx context.Context, s *session) error {
	ctx, cancel := context.WithTimeout(ctx, b.config.StatementTimeout)
	defer cancel()
	var version int
	var encoding, fsync, standby string
	err := s.QueryRowContext(ctx, "SELECT current_setting('server_version_num')::int, current_setting('server_encoding'), current_setting('fsync'), pg_is_in_recovery()::text").
		Scan(&version, &encoding, &fsync, &standby)
	switch {
	case err != nil:
		return fmt.Errorf("is it PostgreSQL? %w", err)
	case version < 110000:
		return fmt.Errorf("the server has version %d, want 110000 or later", version)
	case encoding != "UTF8":
		return fmt.Errorf("the database has the encoding %s, want UTF8", encoding)
	case fsync != "on":
		return fmt.Errorf("the server runs with fsync=%s, want on: acknowledged leases would be lost", fsync)
	case standby == "true":
		return errors.New("the server is a standby, want the primary")
	}
	for _, text := range []string{"BEGIN", fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", int64(schemaLock)), createPostgresMeta} {
		if _, err := s.ExecContext(ctx, text); err != nil {
			return fmt.Errorf("make the tables: %w", err)
		}
	}
	if _, err := s.ExecContext(ctx, "INSERT INTO bullpen_meta (one, version, id) VALUES (1, 0, $1) ON CONFLICT (one) DO NOTHING", uuid.NewString()); err != nil {
		return fmt.Errorf("make the tables: %w", err)
	}
	var have int
	if err := s.QueryRowContext(ctx, "SELECT version, id FROM bullpen_meta WHERE one = 1").Scan(&have, &b.store); err != nil {
		return fmt.Errorf("read bullpen_meta: %w", err)
	}
	steps := postgresSchema()
	if err := steps.migrate(ctx, s, have); err != nil {
		return err
	}
	if have != len(steps) {
		if _, err := s.ExecContext(ctx, "UPDATE bullpen_meta SET version = $1 WHERE one = 1", len(steps)); err != nil {
			return fmt.Errorf("write the version: %w", err)
		}
	}
	if err := verifyPostgres(ctx, s); err != nil {
		return err
	}
	if _, err := s.ExecContext(ctx, "COMMIT"); err != nil {
		return fmt.Errorf("make the tables: %w", err)
	}
	return nil
}

// verifyPostgres looks for rows that were changed by hand and for a sequence that
// was set back. The rows of others that are being changed are seen as they were.
func verifyPostgres(ctx context.Context, s *session) error {
	var bad int
	var most, last int64
	err := s.QueryRowContext(ctx, `SELECT count(*) FILTER (WHERE token < 0 OR renewals < 0 OR token > 0 AND sum <> bullpen_sum(token, renewals, key, data)), coalesce(max(token), 0),
	(SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM bullpen_token) FROM bullpen_lease`).Scan(&bad, &most, &last)
	switch {
	case err != nil:
		return fmt.Errorf("verify: %w", err)
	case bad > 0:
		return fmt.Errorf("%w: %d rows of bullpen_lease do not fit their checksums", ErrDamaged, bad)
	case most > last:
		return fmt.Errorf("%w: a row has token %d, the sequence bullpen_token is at %d", ErrDamaged, most, last)
	}
	return nil
}
