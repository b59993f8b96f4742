INSERT INTO customers SELECT 'C-' || number, 'Customer ' || number, 5000 FROM generate_series(1000, 1049) number;
