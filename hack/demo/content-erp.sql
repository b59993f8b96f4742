SELECT 'customers', count(*), md5(string_agg(r::text, '' ORDER BY customer_no))
FROM (SELECT customer_no, name, credit_limit, origin FROM sales.customer) r
UNION ALL
SELECT 'orders', count(*), md5(string_agg(r::text, '' ORDER BY order_no))
FROM (SELECT order_no, customer_no, state, placed FROM sales.sales_order) r
UNION ALL
SELECT 'order-lines', count(*), md5(string_agg(r::text, '' ORDER BY order_no, line_no))
FROM (SELECT order_no, line_no, article, quantity, unit_price FROM sales.order_line) r;
