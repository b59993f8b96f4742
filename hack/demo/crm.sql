-- The source.
CREATE TABLE customers (
    cust_no      text PRIMARY KEY,
    full_name    text NOT NULL,
    credit_limit numeric(12, 2) NOT NULL
);

CREATE TABLE orders (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cust_no text NOT NULL REFERENCES customers,
    status  text NOT NULL DEFAULT 'new' CHECK (status IN ('new', 'paid', 'shipped')),
    placed  timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE order_lines (
    order_id bigint NOT NULL REFERENCES orders,
    line     int NOT NULL,
    sku      text NOT NULL,
    quantity int NOT NULL,
    price    numeric(12, 2) NOT NULL,
    PRIMARY KEY (order_id, line)
);

CREATE SEQUENCE customer_numbers START 2000;

-- What the steady writer does: a new customer with an order and its lines, and older ones change or go.
CREATE PROCEDURE change_set() LANGUAGE plpgsql AS $$
DECLARE
    number bigint := nextval('customer_numbers');
    new_order bigint;
BEGIN
    INSERT INTO customers VALUES ('C-' || number, 'Customer ' || number, 1000);
    INSERT INTO orders (cust_no) VALUES ('C-' || number) RETURNING id INTO new_order;
    INSERT INTO order_lines
        SELECT new_order, line, 'SKU-' || (random() * 900)::int, line, random() * 100 FROM generate_series(1, 3) line;
    UPDATE customers SET credit_limit = credit_limit + 100 WHERE cust_no = 'C-' || number - 5;
    UPDATE orders SET status = 'paid' WHERE id = new_order - 10;
    UPDATE orders SET status = 'shipped' WHERE id = new_order - 20;
    -- Lines without a quantity are not replicated: at the destination they disappear.
    UPDATE order_lines SET quantity = quantity - 1 WHERE order_id = new_order - 15;
    DELETE FROM order_lines WHERE order_id = new_order - 30;
    DELETE FROM orders WHERE id = new_order - 30;
END
$$;
