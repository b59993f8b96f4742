\ir audit.sql

CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON sales.customer FOR EACH ROW EXECUTE FUNCTION audit.note(
    'customers', '$1.customer_no', '$1::text');
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON sales.sales_order FOR EACH ROW EXECUTE FUNCTION audit.note(
    'orders', '$1.order_no', '$1::text');
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON sales.order_line FOR EACH ROW EXECUTE FUNCTION audit.note(
    'order-lines', 'ROW($1.order_no, $1.line_no)', '$1::text');

-- Whoever writes.
ALTER TABLE sales.customer ENABLE ALWAYS TRIGGER audit;
ALTER TABLE sales.sales_order ENABLE ALWAYS TRIGGER audit;
ALTER TABLE sales.order_line ENABLE ALWAYS TRIGGER audit;
