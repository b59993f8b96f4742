-- The destination: other names, and foreign keys.
CREATE SCHEMA sales;

CREATE TABLE sales.customer (
    customer_no  varchar(20) PRIMARY KEY,
    name         varchar(60) NOT NULL,
    credit_limit numeric(12, 2) NOT NULL,
    origin       text NOT NULL
);

CREATE TABLE sales.sales_order (
    order_no    bigint PRIMARY KEY,
    customer_no varchar(20) NOT NULL REFERENCES sales.customer,
    state       smallint NOT NULL,
    placed      timestamptz NOT NULL
);

CREATE TABLE sales.order_line (
    order_no   bigint NOT NULL REFERENCES sales.sales_order,
    line_no    int NOT NULL,
    article    text NOT NULL,
    quantity   int NOT NULL CHECK (quantity > 0),
    unit_price numeric(12, 2) NOT NULL,
    PRIMARY KEY (order_no, line_no)
);
