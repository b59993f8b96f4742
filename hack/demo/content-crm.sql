-- What the maps should make of the source: rows and a hash for each of them.
SELECT 'customers', count(*), md5(string_agg(r::text, '' ORDER BY cust_no))
FROM (SELECT cust_no, full_name, credit_limit, 'crm' FROM customers) r
UNION ALL
SELECT 'orders', count(*), md5(string_agg(r::text, '' ORDER BY id))
FROM (SELECT id, cust_no, CASE status WHEN 'new' THEN 1 WHEN 'paid' THEN 2 WHEN 'shipped' THEN 3 END, placed FROM orders) r
UNION ALL
SELECT 'order-lines', count(*), md5(string_agg(r::text, '' ORDER BY order_id, line))
FROM (SELECT order_id, line, sku, quantity, price FROM order_lines WHERE quantity > 0) r;
