//! Values as parameters: always in text form, so that the destination casts.

use crate::mapping::Value;
use bytes::BytesMut;
use postgres_types::{Format, IsNull, ToSql, Type};
use std::error::Error;

/// A text-form parameter of any type.
#[derive(Debug, Clone, Copy)]
pub struct Text<'a>(pub Option<&'a [u8]>);

impl ToSql for Text<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self.0 {
            Some(text) => {
                out.extend_from_slice(text);
                Ok(IsNull::No)
            }
            None => Ok(IsNull::Yes),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn to_sql_checked(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        self.to_sql(ty, out)
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }
}

/// A value as a parameter; one that was not sent is never asked for.
pub fn text<'a>(value: &'a Value<'_>) -> Text<'a> {
    match value {
        Value::Text(text) => Text(Some(text)),
        Value::Null | Value::NotSent => Text(None),
    }
}
