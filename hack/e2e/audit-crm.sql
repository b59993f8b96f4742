\ir audit.sql

CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON customers FOR EACH ROW EXECUTE FUNCTION audit.note(
    'customers', '$1.cust_no', 'ROW($1.cust_no, $1.full_name, $1.credit_limit, ''crm'')::text');
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION audit.note(
    'orders', '$1.id',
    'ROW($1.id, $1.cust_no, CASE $1.status WHEN ''new'' THEN 1 WHEN ''paid'' THEN 2 ELSE 3 END, $1.placed)::text');
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON order_lines FOR EACH ROW EXECUTE FUNCTION audit.note(
    'order-lines', 'ROW($1.order_id, $1.line)',
    'CASE WHEN $1.quantity > 0 THEN ROW($1.order_id, $1.line, $1.sku, $1.quantity, $1.price)::text END');

-- The destination's notes are copied to here.
CREATE TABLE audit.written (id bigint PRIMARY KEY, map text NOT NULL, key text NOT NULL, state text NOT NULL);
